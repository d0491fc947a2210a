"""Speed alone, of a model file that is no bundle yet: what a search asks of a device.

The folder holds SHA256SUMS, `profile.json` and the model; no answers were recorded.
"""

from __future__ import annotations

import time
from dataclasses import asdict
from pathlib import Path

from .bundle import CannotRun, read_profile
from .checks import FAILED, PASSED, Check, check_digests, check_rss
from .machine import machine_facts
from .result import Result
from .speed import DECODE_TOKENS, PREFILL_TOKENS, REPETITIONS, measure_speed
from .whole_test import Settings, loaded

ROUNDS = 2 * REPETITIONS  # a median decides here, not a limit that is met or not


def run_speed(folder: Path, settings: Settings) -> Result:
    """Digests, load, prefill and decode with the threads that were given; medians in `speed`."""
    result = Result(checks=[check_digests(folder)], machine=machine_facts())
    start = time.monotonic()
    if result.checks[0].status != PASSED:
        raise CannotRun(f"digests differ: {result.checks[0].note}")
    profile = read_profile(folder)
    result.model, result.target = profile["model"], profile["target"]
    context = int(profile["context_length"])
    with loaded(folder, profile, settings, result) as engine:
        rounds = REPETITIONS if settings.quick else ROUNDS
        for kind, most in (("prefill", PREFILL_TOKENS), ("decode", DECODE_TOKENS)):
            speed = measure_speed(getattr(engine, kind), min(most, context // 2), rounds)
            result.speed[kind + "_tokens_per_sec"] = asdict(speed)
            status = FAILED if speed.median <= 0 else PASSED
            result.checks.append(Check(f"{kind}_tokens_per_sec", speed.median, None, "", status))
        result.checks.append(check_rss(engine.peak_rss(), None))
    result.machine["test_sec"] = time.monotonic() - start
    return result
