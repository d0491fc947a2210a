"""Ratios to the FP32 ONNX file, pair by pair, and the verdict: faster, and still right?"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from benchmark.encoders import cell_name
from benchmark.records import FP32, INT8, EngineResult, Fault, Measurement
from benchmark.settings import Settings
from benchmark.statistics import geometric_mean, paired_ratios, percentile, spread

# Metric, and whether it is a speed, which counts as the time per unit.
_DECODER_METRICS = {
    "request": ("request_sec", False),
    "prefill": ("prefill_tokens_per_sec", True),
    "decode": ("decode_tokens_per_sec", True),
}


def baseline_of(names: Sequence[str]) -> str:
    """The engine that ratios are to: FP32 ONNX, else the first measured."""
    return FP32 if FP32 in names else names[0]


def decoder_ratios(
    measurements: Sequence[Measurement], engines: Sequence[EngineResult]
) -> dict[str, Any]:
    """By engine: how many times as fast as the baseline in whole requests (the stated mix),
    prefill and decode, each the spread over rounds; by clients likewise; and the file's size."""
    base = baseline_of([engine.name for engine in engines])
    ratios: dict[str, Any] = {}
    for engine in engines:
        rows: dict[str, Any] = {}
        for name, (metric, inverted) in _DECODER_METRICS.items():
            slow, fast = (
                _by_round(measurements, who, metric, inverted, _single)
                for who in (base, engine.name)
            )
            rows[name] = spread(paired_ratios(slow, fast)).as_json()
        rows["clients"] = _client_ratios(measurements, base, engine.name)
        ratios[engine.name] = rows
    return {"baseline": base, "engines": _with_sizes(ratios, engines, base)}


def encoder_ratios(
    measurements: Sequence[Measurement], engines: Sequence[EngineResult]
) -> dict[str, Any]:
    """By engine: the ratio of every shape, and `mix`, the geometric mean over shapes in each
    round."""
    base = baseline_of([engine.name for engine in engines])
    cells = sorted(
        {(m.batch, m.sequence) for m in measurements if m.phase == "encode" and m.batch},
        key=lambda cell: (cell[1] or 0, cell[0] or 0),
    )
    ratios: dict[str, Any] = {}
    for engine in engines:
        shapes: dict[str, Any] = {}
        by_round: dict[int, list[float]] = defaultdict(list)
        for batch, sequence in cells:

            def here(m: Measurement, b: int | None = batch, s: int | None = sequence) -> bool:
                return m.batch == b and m.sequence == s

            slow = _by_round(measurements, base, "batch_sec", False, here)
            fast = _by_round(measurements, engine.name, "batch_sec", False, here)
            pairs = {r: slow[r] / fast[r] for r in sorted(slow.keys() & fast.keys())}
            for round_, ratio in pairs.items():
                by_round[round_].append(ratio)
            shapes[cell_name((batch or 0, sequence or 0))] = spread(list(pairs.values())).as_json()
        mix = [geometric_mean(values) for values in by_round.values()]
        ratios[engine.name] = {"mix": spread(mix).as_json(), "cells": shapes}
    return {"baseline": base, "engines": _with_sizes(ratios, engines, base)}


def judge(
    kind: str, ratios: Mapping[str, Any], quality: Mapping[str, Any] | None, settings: Settings
) -> tuple[list[Fault], list[str]]:
    """Faults of the INT8 ONNX file, and notes on what could not be judged."""
    rows = ratios["engines"].get(INT8)
    if rows is None or ratios["baseline"] != FP32:
        return [], ["no verdict: it compares onnx-int8 with onnx-fp32, and both are needed"]
    faults, notes = [], []
    mix = rows["request" if kind == "decoder" else "mix"]
    if mix["median"] < 1:
        what = "request of the stated mix" if kind == "decoder" else "mean over all shapes"
        faults.append(
            Fault(
                "speed",
                mix["median"],
                1.0,
                f"{INT8} is slower than {FP32}: {mix['median']:.2f}x in the {what} (quartiles "
                f"{mix['low_quartile']:.2f} to {mix['high_quartile']:.2f}), at least 1.00x wanted",
            )
        )
    parts = {n: rows[n] for n in ("prefill", "decode")} if kind == "decoder" else rows["cells"]
    slower = {name: part["median"] for name, part in parts.items() if part["median"] < 1}
    if slower and not faults:
        shown = ", ".join(f"{name} {ratio:.2f}x" for name, ratio in slower.items())
        notes.append(f"{INT8} is slower than {FP32} in parts of the mix: {shown}")
    found = quality_faults(quality, settings)
    if found is None:
        notes.append("no quality gate: nothing to measure it on (give --model, or a bundle)")
    return faults + (found or []), notes


def quality_faults(quality: Mapping[str, Any] | None, settings: Settings) -> list[Fault] | None:
    """What the INT8 file misses; None when its quality is not known."""
    mine = ((quality or {}).get("engines") or {}).get(INT8)
    limits = {
        "kld_mean": (settings.max_kld, True, "mean KLD"),
        "accuracy_loss": (settings.max_accuracy_loss, True, "loss of accuracy"),
        "cosine_mean": (settings.min_cosine, False, "mean cosine"),
    }
    if mine and "accuracy_loss" not in mine:
        limits["agreement"] = (settings.min_agreement, False, "agreement with FP32")
    if not mine or not limits.keys() & mine.keys():
        return None
    faults = []
    for name, (limit, at_most, words) in limits.items():
        figure = mine.get(name)
        limit = float((quality or {}).get("limits", {}).get(name, limit))
        if figure is None or (figure <= limit if at_most else figure >= limit):
            continue
        bound = "at most" if at_most else "at least"
        text = f"{INT8} misses the quality gate: {words} {figure:.3g}, {bound} {limit:g} wanted"
        faults.append(Fault(name, figure, limit, text))
    return faults


def _single(m: Measurement) -> bool:
    """Whether one client alone was served."""
    return m.phase == "request"


def _by_round(
    measurements: Sequence[Measurement],
    engine: str,
    metric: str,
    inverted: bool,
    here: Callable[[Measurement], bool],
) -> dict[int, float]:
    """Each round's median of a metric, as a time."""
    rounds: dict[int, list[float]] = defaultdict(list)
    for m in measurements:
        if m.engine == engine and m.metric == metric and here(m):
            rounds[m.round].append(1 / m.value if inverted else m.value)
    return {round_: percentile(values, 50) for round_, values in rounds.items()}


def _client_ratios(
    measurements: Sequence[Measurement], base: str, engine: str
) -> dict[str, dict[str, float]]:
    """Requests per second against the baseline's, by number of clients."""
    counts = sorted({m.clients for m in measurements if m.clients is not None})
    rows = {}
    for clients in counts:

        def here(m: Measurement, n: int | None = clients) -> bool:
            return m.clients == n

        slow, fast = (
            _by_round(measurements, who, "requests_per_sec", True, here) for who in (base, engine)
        )
        rows[str(clients)] = spread(paired_ratios(slow, fast)).as_json()
    return rows


def _with_sizes(
    ratios: dict[str, Any], engines: Sequence[EngineResult], base: str
) -> dict[str, Any]:
    """Add each file's size as a share of the baseline's."""
    whole = next(engine.file_bytes for engine in engines if engine.name == base)
    for engine in engines:
        ratios[engine.name]["size"] = engine.file_bytes / whole if whole else None
    return ratios
