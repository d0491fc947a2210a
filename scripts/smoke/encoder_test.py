"""The test of an encoder: labels, outputs, latency."""

from __future__ import annotations

import os
import statistics
import time
from pathlib import Path
from typing import Any

from .checks import Check, at_least, at_most, check_rss, scaled
from .machine import load_per_core, usable_cores
from .onnx_encoder import OnnxEncoder
from .processes import peak_rss_bytes
from .result import Result
from .speed import REPETITIONS

MAX_DIFFERENCE = 1e-3  # of an encoder's outputs, where engine and CPU are those of the recording


def measure_encoder(
    bundle: Path,
    profile: dict[str, Any],
    prompts: list[dict[str, Any]],
    threads: int | None,
    quick: bool,
    result: Result,
) -> None:
    """An encoder's labels and outputs against the recorded ones, then its speed."""
    thresholds = profile.get("thresholds", {})
    used = threads or min(int(profile.get("threads") or usable_cores()), usable_cores())
    start = time.perf_counter()
    engine = OnnxEncoder(bundle / profile["model_file"], used)
    load = at_most("load_sec", time.perf_counter() - start, thresholds.get("max_load_sec"), "s")
    result.engine = {"name": engine.name, "version": engine.version, "features": engine.features}
    same = result.engine == profile.get("recorded")
    result.threads = {"profile": used, "used": used}
    rows = [engine.rows([text_of(row)])[0] for row in prompts]
    differ = [
        max((abs(a - b) for a, b in zip(row["expected_output"], made)), default=0.0)  # noqa: B905
        for row, made in zip(prompts, rows)  # noqa: B905 (3.8)
    ]
    labels = [engine.label(made) for made in rows]
    equal = sum(row["expected"] == label for row, label in zip(prompts, labels))  # noqa: B905
    limit = 1.0 if same else thresholds.get("min_answers_equal")
    note = "" if same else "recorded on another engine or CPU"
    result.checks += [
        load,
        at_least("equal_labels", equal / len(prompts), limit, "share", note),
        at_most("max_output_difference", max(differ), MAX_DIFFERENCE if same else None, ""),
        check_labels(prompts, labels, thresholds),
    ]
    rss_bytes = peak_rss_bytes(os.getpid())
    repetitions = 1 if quick else REPETITIONS
    result.checks += check_encoder_speed(engine, prompts, repetitions, result)
    rss_limit = thresholds.get("max_peak_rss_bytes")
    result.checks.append(check_rss(rss_bytes, rss_limit))
    result.machine["load_per_core_after"] = load_per_core()


def text_of(row: dict[str, Any]) -> Any:
    """A row's text, or its pair of texts."""
    pair = row.get("text_pair")
    return row["text"] if pair is None else (row["text"], pair)


def check_labels(
    prompts: list[dict[str, Any]], labels: list[str], thresholds: dict[str, Any]
) -> Check:
    """Share of texts whose label is the true one, against that share when recorded."""
    scored = [i for i, row in enumerate(prompts) if row.get("reference") is not None]
    if not scored:
        return Check("task_score", note="no text of this bundle has a true label")
    right = sum(prompts[i]["reference"] == labels[i] for i in scored)
    recorded = sum(prompts[i]["reference"] == prompts[i]["expected"] for i in scored)
    limit = scaled(thresholds.get("min_task_score_share"), recorded / len(scored))
    note = f"{right} of {len(scored)} right, {recorded} when recorded"
    return at_least("task_score", right / len(scored), limit, "share", note)


def check_encoder_speed(
    engine: OnnxEncoder, prompts: list[dict[str, Any]], repetitions: int, result: Result
) -> list[Check]:
    """Median latency of one text, and texts per second eight at a time."""
    texts = [text_of(row) for row in prompts]
    batch = [texts[i % len(texts)] for i in range(8)]
    singles, batches = [], []
    for _ in range(repetitions):
        for text in texts:
            start = time.perf_counter()
            engine.rows([text])
            singles.append(time.perf_counter() - start)
        start = time.perf_counter()
        engine.rows(batch)
        batches.append(len(batch) / (time.perf_counter() - start))
    latency, speed = statistics.median(singles), max(batches)
    result.speed = {"latency_sec": latency, "texts_per_sec": speed, "batch_size": len(batch)}
    return [
        at_most("latency_sec", latency, None, "s", f"median of {len(singles)} texts, one by one"),
        at_least("texts_per_sec", speed, None, "texts/s", f"{len(batch)} texts at a time"),
    ]
