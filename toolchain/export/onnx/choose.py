"""Choose the INT8 variant by measurement: the fastest one for the stated mix within the KLD budget.

    choice = choose_int8(fp32, ("int8-mixed", "int8-block"), make, kld_of, budget, Mix(256, 128))

`make` and `kld_of` run (or find finished) stages; speeds are measured here, all models in turn. A
candidate that is slower than FP32 is never chosen, whatever its size.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from common.errors import UserError
from runtimes.ort_bench import DecoderSpeed, SpeedSettings, measure_decoders
from toolchain.artifact import Artifact
from toolchain.export.choose import CHOSEN, PASSED_OVER
from toolchain.export.onnx.graph_file import GRAPH, graph_bytes

_FP32 = "FP32"


@dataclass(frozen=True)
class Mix:
    """What a request looks like: tokens of its prompt and of its answer."""

    prefill_tokens: int = 256
    decode_tokens: int = 128


@dataclass(frozen=True)
class TriedVariant:
    """One candidate and its fate. Ratios are to FP32: above 1 is faster, below 1 is smaller."""

    name: str
    verdict: str
    reason: str
    size_bytes: int
    size_ratio: float
    prefill_ratio: float
    decode_ratio: float
    mix_ratio: float
    prefill_sec: float
    decode_sec: float
    kld: float

    def as_json(self) -> dict[str, Any]:
        """The record for manifest and report."""
        return asdict(self)


@dataclass(frozen=True)
class Int8Choice:
    """The chosen variant's name and artifact, and the record of every candidate, fastest first."""

    name: str
    artifact: Artifact
    tried: tuple[TriedVariant, ...]


def choose_int8(
    fp32: Artifact,
    candidates: Sequence[str],
    make: Callable[[str], Artifact],
    kld_of: Callable[[Artifact], float],
    budget: float,
    mix: Mix,
    speed: SpeedSettings | None = None,
    measure: Callable[..., dict[str, DecoderSpeed]] = measure_decoders,
) -> Int8Choice:
    """Make, prove and time the candidates.

    `budget` is the largest mean KLD against `fp32`. Raises `UserError`, with every one's figures,
    when none is within it and faster than FP32.
    """
    if not candidates:
        raise UserError("no INT8 variant to choose from", "name at least one candidate")
    made = {name: make(name) for name in candidates}
    klds = {name: kld_of(artifact) for name, artifact in made.items()}
    settings = speed or SpeedSettings()
    files = {_FP32: fp32.path / GRAPH}
    files |= {name: artifact.path / GRAPH for name, artifact in made.items()}
    speeds = measure(files, settings)

    def seconds(name: str) -> float:
        return speeds[name].mix_sec(mix.prefill_tokens, mix.decode_tokens, settings.prefill_tokens)

    order = sorted(candidates, key=seconds)
    faults = {name: _fault(klds[name], budget, seconds(_FP32) / seconds(name)) for name in order}
    chosen = next((name for name in order if not faults[name]), None)
    fp32_bytes = graph_bytes(fp32.path)
    tried = tuple(
        TriedVariant(
            name=name,
            verdict=CHOSEN if name == chosen else PASSED_OVER,
            reason=faults[name] or _reason(name == chosen, mix),
            size_bytes=graph_bytes(made[name].path),
            size_ratio=round(graph_bytes(made[name].path) / fp32_bytes, 4),
            prefill_ratio=round(speeds[name].prefill_ratio, 3),
            decode_ratio=round(speeds[name].decode_ratio, 3),
            mix_ratio=round(seconds(_FP32) / seconds(name), 3),
            prefill_sec=speeds[name].prefill_sec,
            decode_sec=speeds[name].decode_sec,
            kld=klds[name],
        )
        for name in order
    )
    if chosen is None:
        raise UserError(
            "no INT8 variant is within the quality budget and faster than FP32 on this machine",
            "raise quality.max_kld, smooth the model first (onnx-smooth), or ship FP32",
            details=[
                f"{row.name}: {row.reason} ({row.mix_ratio:.2f} times as fast)" for row in tried
            ],
        )
    return Int8Choice(chosen, made[chosen], tried)


def _fault(kld: float, budget: float, mix_ratio: float) -> str:
    if not kld <= budget:
        return f"mean KLD {kld:.2g} exceeds the budget {budget:g}"
    return "no faster than FP32" if mix_ratio <= 1 else ""


def _reason(is_chosen: bool, mix: Mix) -> str:
    request = f"{mix.prefill_tokens} prompt and {mix.decode_tokens} answer tokens"
    return f"{'fastest' if is_chosen else 'not the fastest'} within the budget for {request}"
