"""Choose an encoder's INT8 variant by measurement on this machine: the fastest within budget.

Every candidate is made, measured against FP32 on texts that are not those of the final test, and
where it is out of budget mended: the nodes that must stay in FP32 are found. Candidates within
budget are then timed together with FP32.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError
from runtimes.cpu_int8 import int8_support
from runtimes.ort_encoder import read_facts
from runtimes.threads import idle_cores
from toolchain.artifact import Artifact
from toolchain.export.onnx import encoder_quality as quality
from toolchain.export.onnx import encoder_quantize, sensitivity
from toolchain.export.onnx.encoder_quality import Budget, Measured
from toolchain.export.onnx.encoder_quantize import VariantName, require_source
from toolchain.export.onnx.encoder_speed import SHAPES, Shape, time_encoders
from toolchain.export.onnx.encoder_variants import VARIANTS
from toolchain.pipeline import Workspace, run_stage, say_on_stderr
from toolchain.stage import Input

AUTO = "auto"
FP32 = "fp32"
CHOSEN, PASSED_OVER, NOT_TRIED = "chosen", "passed over", "not tried"


@dataclass(frozen=True)
class Wishes:
    """What the choice goes by. `variant` auto tries all (static with `calibration` only);
    `measurement` are texts (labelled where they can be) apart from training and final test;
    `threads` None is as many as there are idle cores."""

    measurement: Path
    variant: VariantName | Literal["auto"] = "auto"
    calibration: Path | None = None
    budget: Budget = field(default_factory=Budget)
    shapes: Sequence[Shape] = SHAPES
    threads: int | None = None
    embeddings: bool = True


@dataclass(frozen=True)
class Tried:
    """One candidate and its fate. `speedup`: shape → times as fast as FP32; `figures` as in
    `encoder_metrics`; None or empty where nothing was measured."""

    name: str
    variant: str
    verdict: str
    reason: str
    exclude: tuple[str, ...] = ()
    size_bytes: int | None = None
    speedup: Mapping[str, float] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    figures: Mapping[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The record for manifest and report."""
        return asdict(self)


@dataclass(frozen=True)
class EncoderChoice:
    """The chosen encoder, every candidate's record, FP32's seconds per shape, the sensitivity
    artifacts by variant, and what is to be said of this CPU."""

    quantized: Artifact
    tried: tuple[Tried, ...]
    fp32_seconds: Mapping[str, float]
    fp32_size_bytes: int
    threads: int
    sensitivity: Mapping[str, Artifact]
    warnings: tuple[str, ...]

    def as_json(self) -> dict[str, Any]:
        """The record for manifest and report."""
        return {
            "chosen": next(row.name for row in self.tried if row.verdict == CHOSEN),
            "tried": [row.as_json() for row in self.tried],
            "fp32_seconds": dict(self.fp32_seconds),
            "fp32_size_bytes": self.fp32_size_bytes,
            "threads": self.threads,
            "exclusions": {
                name: artifact.measurements["exclude"]
                for name, artifact in self.sensitivity.items()
            },
            "warnings": list(self.warnings),
        }


@dataclass(frozen=True)
class _Candidate:
    """A made encoder with its figures."""

    name: str
    artifact: Artifact
    measured: Measured


def choose(
    source: Artifact,
    wishes: Wishes,
    workspace: Workspace,
    say: Callable[[str], None] = say_on_stderr,
) -> EncoderChoice:
    """The fastest candidate within budget, of the FP32 encoder `source`.

    Raises `UserError` when none is within budget and faster than FP32, with every one's figures,
    and when measurement or calibration texts do not do.
    """
    require_source(source)
    support = int8_support()
    if support.warning:
        say(f"warning: {support.warning}")
    maker = _Maker(source, wishes, workspace, support.reduce_range)
    rows: list[Tried] = []
    candidates: list[_Candidate] = []
    for variant in _variants(wishes):
        without = VARIANTS[variant].needs_calibration and wishes.calibration is None
        if without and wishes.variant == AUTO:
            rows.append(Tried(variant, variant, NOT_TRIED, "no calibration data given"))
        else:
            candidates += maker.candidates(variant)
    threads = wishes.threads or idle_cores()
    fit = [candidate for candidate in candidates if not candidate.measured.shortfalls]
    folders = {FP32: source.path, **{each.name: each.artifact.path for each in fit}}
    seconds = time_encoders(folders, wishes.shapes, threads=threads)
    measured = [_row(candidate, seconds) for candidate in candidates]
    best = max(measured, key=_score, default=None)
    if best is None or _score(best) <= (1.0 if wishes.variant == AUTO else 0.0):
        raise _none_fits(source, [*measured, *rows])
    tried = [_judged(row, best) for row in measured]
    chosen = next(each for each in fit if each.name == best.name)
    return EncoderChoice(
        quantized=chosen.artifact,
        tried=(*tried, *rows),
        fp32_seconds=seconds[FP32],
        fp32_size_bytes=int(source.measurements["size_bytes"]),
        threads=threads,
        sensitivity=maker.sensitivity,
        warnings=(support.warning,) if support.warning else (),
    )


def _variants(wishes: Wishes) -> Sequence[VariantName]:
    names: tuple[VariantName, ...] = ("int8-dynamic", "int8-block", "int8-static")
    return names if wishes.variant == "auto" else (wishes.variant,)


class _Maker:
    """Makes and measures candidates, each with stages that are not run twice."""

    def __init__(
        self, source: Artifact, wishes: Wishes, workspace: Workspace, reduce_range: bool
    ) -> None:
        self._source, self._wishes, self._workspace = source, wishes, workspace
        self._reduce_range = reduce_range
        self._facts = read_facts(source.path)
        self._examples = quality.read_measurement(wishes.measurement, self._facts)
        self._reference = quality.outputs_of(source.path, self._examples)
        self.sensitivity: dict[str, Artifact] = {}

    def candidates(self, variant: VariantName) -> list[_Candidate]:
        """The variant as it is and, when that is out of budget, with nodes left in FP32."""
        calibration = self._wishes.calibration
        needs = VARIANTS[variant].needs_calibration
        config = encoder_quantize.Config(
            variant=variant,
            embeddings=self._wishes.embeddings,
            reduce_range=self._reduce_range,
            calibration=Input.of_file(calibration) if needs and calibration else None,
        )
        plain = self._made(variant, config)
        if not plain.measured.shortfalls:
            return [plain]
        found = run_stage(
            sensitivity,
            self._source,
            sensitivity.Config(
                quantize=config,
                measurement=Input.of_file(self._wishes.measurement),
                budget=self._wishes.budget,
            ),
            self._workspace,
        )
        self.sensitivity[variant] = found
        exclude = tuple(found.measurements["exclude"])
        mended = config.model_copy(update={"exclude": exclude})
        return [plain, self._made(f"{variant}, {len(exclude)} nodes FP32", mended)]

    def _made(self, name: str, config: encoder_quantize.Config) -> _Candidate:
        artifact = run_stage(encoder_quantize, self._source, config, self._workspace)
        found = quality.outputs_of(artifact.path, self._examples)
        measured = quality.measure(
            self._facts, self._reference, found, self._examples, self._wishes.budget
        )
        return _Candidate(name, artifact, measured)


def _row(candidate: _Candidate, seconds: Mapping[str, Mapping[str, float]]) -> Tried:
    own = seconds.get(candidate.name, {})
    return Tried(
        name=candidate.name,
        variant=str(candidate.artifact.measurements["variant"]),
        verdict=PASSED_OVER,
        reason="; ".join(candidate.measured.shortfalls),
        exclude=tuple(candidate.artifact.measurements["fp32_nodes"]),
        size_bytes=int(candidate.artifact.measurements["size_bytes"]),
        speedup={shape: seconds[FP32][shape] / value for shape, value in own.items()},
        seconds=own,
        figures=candidate.measured.figures,
    )


def _score(row: Tried) -> float:
    """Geometric mean of the speed-ups; 0 for what is out of budget."""
    if not row.speedup:
        return 0.0
    return math.exp(sum(map(math.log, row.speedup.values())) / len(row.speedup))


def _judged(row: Tried, best: Tried) -> Tried:
    """The reasons ship, and hold no figure of the clock: `speedup` has them."""
    if row is best:
        return replace(row, verdict=CHOSEN, reason="the fastest within budget")
    if not row.speedup:
        return row
    return replace(row, reason="within budget, but slower than the one that was chosen")


def _none_fits(source: Artifact, rows: Sequence[Tried]) -> UserError:
    details = [
        f"{row.name}: " + (row.reason or f"within budget, but {_score(row):.2f}x FP32")
        for row in rows
    ]
    return UserError(
        f"no INT8 variant of {source.path.name} is within budget and faster than FP32 here",
        "allow a larger loss, give calibration data, or serve the FP32 encoder",
        details=details,
    )
