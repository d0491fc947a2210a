"""Choose the quantization by measurement: the first candidate that fits and stays within budget.

`auto` takes the target's candidates in order of preference and stops at the first that meets the
quality budget. A type that the user named is measured and built all the same; whether it meets the
budget is recorded.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from toolchain.plan import AUTO

if TYPE_CHECKING:
    from targets.planner import Candidate, Plan
    from toolchain.artifact import Artifact
    from toolchain.job import Job

CHOSEN, PASSED_OVER, NOT_TRIED = "chosen", "passed over", "not tried"


@dataclass(frozen=True)
class Tried:
    """One candidate and its fate. Figures are None where nothing was measured.

    `task_share` is the task score over that of the unquantized file.
    """

    quantization: str
    verdict: str
    reason: str
    size_bytes: int
    bits_per_weight: float
    mean_kld: float | None = None
    task_score: float | None = None
    task_share: float | None = None

    def as_json(self) -> dict[str, Any]:
        """The record for manifest and report."""
        return asdict(self)


@dataclass(frozen=True)
class Choice:
    """The chosen file with its quality, and the record of every candidate."""

    quantized: Artifact
    quality: Artifact
    tried: tuple[Tried, ...]
    within_budget: bool


def choose(
    job: Job,
    plan: Plan,
    measure: Callable[[str], tuple[Artifact, Artifact]],
    reference_task_score: float | None,
) -> Choice:
    """`measure` makes and measures a type: its (gguf, quality) artifacts.

    Raises `UserError` when `auto` finds no candidate within budget, with every one's figures.
    """
    tried: list[Tried] = []
    found: Choice | None = None
    for candidate in plan.candidates:
        size = candidate.size
        planned = (size.quantization, size.weights_bytes, size.bits_per_weight)
        if not candidate.fits:
            tried.append(_without_figures(planned, PASSED_OVER, candidate.reason))
        elif fault := _over_budget(candidate, job.budget):
            tried.append(_without_figures(planned, PASSED_OVER, fault))
        elif found is not None:
            tried.append(_without_figures(planned, NOT_TRIED, "an earlier candidate was chosen"))
        else:
            quantized, quality = measure(size.quantization)
            faults, record = _judge(
                job, size.quantization, quantized, quality, reference_task_score
            )
            tried.append(record)
            if not faults or job.quantization != AUTO:
                found = Choice(quantized, quality, (), within_budget=not faults)
    if found is None:
        raise UserError(
            f"no candidate of {job.target.name} keeps {job.name} within its quality budget",
            "change the budget that is named below (section quality of a recipe), name a type with "
            "quantization=…, or choose a larger target",
            details=[f"{record.quantization}: {record.reason}" for record in tried],
        )
    return Choice(found.quantized, found.quality, tuple(tried), found.within_budget)


def _over_budget(candidate: Candidate, budget: Mapping[str, float]) -> str:
    """What the plan alone tells to be outside the budget; empty when nothing is."""
    size_bytes, speed = candidate.size.weights_bytes, candidate.decode_tokens_per_sec
    if size_bytes > budget.get("max_file_bytes", size_bytes):
        return f"{size_bytes} bytes exceed the budget {budget['max_file_bytes']:g}"
    if speed < budget.get("min_decode_tokens_per_sec", 0.0):
        least = budget["min_decode_tokens_per_sec"]
        return f"about {speed:.3g} tokens/s expected, budget {least:g}"
    return ""


OWN_BLOCKS = "the file has blocks of the model's own"
OWN_TYPES = "the file has a type of its own for each tensor"


def plainly(quantized: Artifact, quality: Artifact, instead: str = OWN_BLOCKS) -> Tried:
    """The record of the file that another took the place of; `instead` says what that has."""
    figures = quantized.measurements
    return Tried(
        quantization=f"{figures['quantization']} plain",
        verdict=PASSED_OVER,
        reason=f"plain quantization, to compare with: {instead}",
        size_bytes=int(figures["size_bytes"]),
        bits_per_weight=float(figures["bits_per_weight"]),
        mean_kld=float(quality.measurements["kld_mean"]),
    )


def task_score(quality: Artifact) -> float | None:
    """The exact-match score in a quality artifact, if the model has a task."""
    task: Mapping[str, Any] | None = quality.measurements["task"]
    return float(task["score"]) if task else None


def _judge(
    job: Job, name: str, quantized: Artifact, quality: Artifact, reference: float | None
) -> tuple[list[str], Tried]:
    kld, score = float(quality.measurements["kld_mean"]), task_score(quality)
    share = score / reference if score is not None and reference else None
    max_kld, min_task_share = job.budget["max_kld"], job.budget["min_task_share"]
    faults = []
    if not kld <= max_kld:
        faults.append(f"mean KLD {kld:.4f} exceeds the budget {max_kld:g}")
    if share is not None and share < min_task_share:
        faults.append(f"keeps {share:.1%} of the task score, budget {min_task_share:.0%}")
    forced = job.quantization != AUTO
    if faults:
        verdict = CHOSEN if forced else PASSED_OVER
        reason = "; ".join([*(["asked for"] if forced else []), *faults])
    else:
        verdict, reason = CHOSEN, "asked for" if forced else "first that fits and meets the budget"
    record = Tried(
        quantization=name,
        verdict=verdict,
        reason=reason,
        size_bytes=int(quantized.measurements["size_bytes"]),
        bits_per_weight=float(quantized.measurements["bits_per_weight"]),
        mean_kld=kld,
        task_score=score,
        task_share=share,
    )
    return faults, record


def _without_figures(planned: tuple[str, int, float], verdict: str, reason: str) -> Tried:
    name, size_bytes, bits = planned
    return Tried(name, verdict, reason, size_bytes, bits)
