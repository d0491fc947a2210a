"""Every check, in an order in which nothing is loaded before its digest is verified."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from .answers import ask, check_answers, check_stops, check_task
from .bundle import ENCODER, read_profile, read_prompts
from .checks import CHECKS, ENCODER_CHECKS, PASSED, Check, at_most, check_digests
from .encoder_test import _measure_encoder
from .engine import Engine
from .find import find_engine
from .machine import copy_bandwidth, load_per_core, machine_facts, usable_cores
from .memory import peak_rss_bytes
from .result import Result
from .speed import REPETITIONS, check_speed, check_ttft, choose_threads, speed_scales


def run_test(bundle: Path, threads: int | None, quick: bool) -> Result:
    """Every check, in an order in which nothing is loaded before its digest is verified."""
    result, start = Result(), time.perf_counter()
    digests = check_digests(bundle)
    names: tuple[str, ...] = CHECKS
    result.checks.append(digests)
    if digests.status == PASSED:
        profile, prompts = read_profile(bundle), read_prompts(bundle)
        result.model, result.target = profile["model"], profile["target"]
        if profile.get("kind") == ENCODER:
            names = ENCODER_CHECKS
            _measure_encoder(bundle, profile, prompts, threads, quick, result)
        else:
            engine = find_engine(profile)
            try:
                _measure(bundle, profile, prompts, engine, threads, quick, result)
            finally:
                engine.close()
    else:
        result.machine = machine_facts()
    measured = {check.name: check for check in result.checks}
    result.checks = [measured.get(name, Check(name)) for name in names]
    result.machine["test_sec"] = time.perf_counter() - start
    return result


def _measure(
    bundle: Path,
    profile: dict[str, Any],
    prompts: list[dict[str, Any]],
    engine: Engine,
    threads: int | None,
    quick: bool,
    result: Result,
) -> None:
    thresholds, context = profile.get("thresholds", {}), int(profile["context_length"])
    result.machine = machine_facts()
    result.engine = {"name": engine.name, "version": engine.version, "features": engine.features}
    same = result.engine == profile.get("recorded")
    wanted = min(int(profile.get("threads") or usable_cores()), usable_cores())
    start = time.perf_counter()
    engine.load(bundle / profile["model_file"], profile, context, threads or wanted)
    load = at_most("load_sec", time.perf_counter() - start, thresholds.get("max_load_sec"), "s")
    result.threads = choose_threads(engine, wanted, threads, quick)
    answers = ask(engine, prompts)
    result.answers = [
        {"id": row["id"], "text": answers[i].text, "equal": row["expected"] == answers[i].text}
        for i, row in enumerate(prompts)
    ]
    result.checks += [load, *check_answers(prompts, answers, same, thresholds)]
    result.checks.append(check_stops(prompts, answers, profile.get("stop_texts", []), same))
    result.checks.append(check_task(prompts, answers, thresholds))
    rss_bytes = peak_rss_bytes()  # before the bandwidth test, whose buffers are not the model's
    bandwidth = copy_bandwidth()
    scales = speed_scales(profile, bandwidth)
    result.machine.update(copy_bandwidth_bytes_per_sec=bandwidth, speed_limit_scales=scales)
    repetitions = 1 if quick else REPETITIONS
    checks, result.speed = check_speed(engine, context, thresholds, scales, repetitions)
    result.checks += checks
    result.checks.append(
        check_ttft(engine, prompts[0], thresholds.get("max_ttft_sec"), scales, repetitions)
    )
    rss_limit = thresholds.get("max_peak_rss_bytes")
    result.checks.append(at_most("peak_rss_bytes", rss_bytes, rss_limit, "bytes"))
    result.machine["load_per_core_after"] = load_per_core()
