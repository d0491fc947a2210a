"""Every check, in an order in which nothing is loaded before its digest is verified."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .answers import agreement, ask, check_answers, check_stops, check_task, is_equal
from .bundle import ENCODER, read_profile, read_prompts
from .checks import CHECKS, ENCODER_CHECKS, PASSED, Check, at_most, check_digests, check_rss
from .encoder_test import measure_encoder
from .engine import Answer, Engine
from .find import AUTO, load_engine
from .machine import copy_bandwidth, load_per_core, machine_facts, usable_cores
from .processes import GpuMemory
from .result import Result
from .sensors import check_power, check_temperature
from .speed import REPETITIONS, check_speed, check_ttft, choose_threads, speed_scales


@dataclass(frozen=True)
class Settings:
    """How to test: `root` is where the device's `proc` and `sys` are."""

    threads: int | None = None
    quick: bool = False
    engine: str = AUTO
    root: Path = Path("/")


def run_test(bundle: Path, settings: Settings) -> Result:
    """The result of all checks; those that could not be made are in it as not measured."""
    result, start = Result(), time.perf_counter()
    digests = check_digests(bundle)
    names: tuple[str, ...] = CHECKS
    result.checks.append(digests)
    result.machine = machine_facts()
    if digests.status == PASSED:
        profile, prompts = read_profile(bundle), read_prompts(bundle)
        result.model, result.target = profile["model"], profile["target"]
        if profile.get("kind") == ENCODER:
            names = ENCODER_CHECKS
            measure_encoder(bundle, profile, prompts, settings.threads, settings.quick, result)
        else:
            measure_decoder(bundle, profile, prompts, settings, result)
    measured = {check.name: check for check in result.checks}
    result.checks = [measured.get(name, Check(name)) for name in names]
    result.machine["test_sec"] = time.perf_counter() - start
    return result


def measure_decoder(
    bundle: Path,
    profile: dict[str, Any],
    prompts: list[dict[str, Any]],
    settings: Settings,
    result: Result,
) -> None:
    """Load, answer, then measure; the engine is gone afterwards, whatever happens."""
    gpu = GpuMemory(settings.root)
    limit = profile.get("thresholds", {}).get("max_load_sec")
    with loaded(bundle, profile, settings, result, limit) as engine:
        check_quality(engine, profile, prompts, result)
        check_figures(engine, profile, prompts[0], gpu, settings, result)


@contextmanager
def loaded(
    folder: Path,
    profile: dict[str, Any],
    settings: Settings,
    result: Result,
    max_load_sec: float | None = None,
) -> Iterator[Engine]:
    """The model with its threads chosen; `result` holds what loading told. Closed at the end."""
    wanted = min(int(profile.get("threads") or usable_cores()), usable_cores())
    engine, load_sec, result.engines_passed_over = load_engine(
        folder / profile["model_file"],
        profile,
        settings.engine,
        int(profile["context_length"]),
        settings.threads or wanted,
    )
    try:
        result.checks.append(at_most("load_sec", load_sec, max_load_sec, "s"))
        result.engine = {n: getattr(engine, n) for n in ("name", "version", "features")}
        result.threads = choose_threads(engine, wanted, settings.threads, settings.quick)
        yield engine
    finally:
        engine.close()
    result.machine["load_per_core_after"] = load_per_core()


def check_quality(
    engine: Engine, profile: dict[str, Any], prompts: list[dict[str, Any]], result: Result
) -> None:
    """Answers, stop tokens, task."""
    thresholds, same = profile.get("thresholds", {}), result.engine == profile.get("recorded")
    answers = ask(engine, prompts)
    result.answers = [answer_facts(row, answers[i]) for i, row in enumerate(prompts)]
    result.checks += check_answers(prompts, answers, same, thresholds)
    result.checks.append(check_stops(prompts, answers, profile.get("stop_texts", []), same))
    result.checks.append(check_task(prompts, answers, thresholds))


def answer_facts(row: dict[str, Any], answer: Answer) -> dict[str, Any]:
    return {
        "id": row["id"],
        "text": answer.text,
        "equal": is_equal(row, answer),
        "agreeing_share": agreement(row, answer),
        "ttft_sec": answer.ttft_sec,
    }


def check_figures(
    engine: Engine,
    profile: dict[str, Any],
    prompt: dict[str, Any],
    gpu: GpuMemory,
    settings: Settings,
    result: Result,
) -> None:
    """Memory, speed, power, temperature."""
    thresholds, context = profile.get("thresholds", {}), int(profile["context_length"])
    rss_bytes = engine.peak_rss()  # before the bandwidth test, whose buffers are not the model's
    gpu_bytes, gpu_note = gpu.read(engine.pid)
    bandwidth = copy_bandwidth()
    scales = speed_scales(profile, bandwidth)
    result.machine.update(copy_bandwidth_bytes_per_sec=bandwidth, speed_limit_scales=scales)
    repetitions = 1 if settings.quick else REPETITIONS
    checks, result.speed = check_speed(engine, context, thresholds, scales, repetitions)
    limit = thresholds.get("max_ttft_sec")
    result.checks += [
        *checks,
        check_ttft(engine, prompt, limit, scales, repetitions),
        check_rss(rss_bytes, thresholds.get("max_peak_rss_bytes")),
        check_gpu(gpu_bytes, gpu_note, thresholds),
        *check_power(engine, settings.root, thresholds),
        check_temperature(settings.root, thresholds),
    ]


def check_gpu(value: int | None, note: str, thresholds: dict[str, Any]) -> Check:
    name = "gpu_memory_bytes"
    if value is None:
        return Check(name, note=note)
    return at_most(name, value, thresholds.get(f"max_{name}"), "bytes", note)
