"""Prefill, decode and first token, with the best number of threads."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

from .checks import FAILED, Check, at_least, at_most, scaled
from .engine import Engine, Work
from .machine import usable_cores

PREFILL_TOKENS, DECODE_TOKENS, REPETITIONS = 256, 48, 3
SPEED_BUDGET_SEC = 6.0  # for prefill and for decode, each
SWEEP_TOKENS, SWEEP_BUDGET_SEC, FAR_SLOWER = 16, 6.0, 4


@dataclass(frozen=True)
class Speed:
    """Tokens per second: the best and the median of several repetitions of `tokens` tokens."""

    tokens: int
    best: float
    median: float


def measure_speed(work: Callable[[int], Work], most_tokens: int, repetitions: int) -> Speed:
    """Warm up with a few tokens, then time as many as fit the time budget, several times."""
    few = min(8, most_tokens)
    rate = work(few).rate
    tokens = int(max(few, min(most_tokens, rate * SPEED_BUDGET_SEC / (repetitions + 1))))
    done = []
    start = time.perf_counter()
    for _ in range(repetitions):
        done.append(work(tokens))
        if time.perf_counter() - start > SPEED_BUDGET_SEC:
            break
    rates = [one.rate for one in done]
    return Speed(done[-1].tokens, max(rates), statistics.median(rates))


def thread_counts(cores: int, wanted: int) -> list[int]:
    """All counts from one to all cores; on many cores powers of two, the wanted count and all."""
    if cores <= 8:
        return list(range(1, cores + 1))
    powers = {1 << bit for bit in range(cores.bit_length())}
    return sorted(count for count in powers | {wanted, cores} if count <= cores)


def sweep_threads(engine: Engine, counts: list[int]) -> dict[int, float]:
    """Decode tokens/s by thread count, until the time budget is spent.

    An engine's threads wait for each other at every layer, so one thread more than there are free
    cores can cost a hundredfold: a count that is far slower than a smaller one ends the sweep.
    """
    rates: dict[int, float] = {}
    start = time.perf_counter()
    for count in counts:
        left = SWEEP_BUDGET_SEC - (time.perf_counter() - start)
        if left <= 0:
            break
        engine.set_threads(count)
        engine.decode(1)
        rates[count] = engine.decode(2).rate
        if rates[count] < max(rates.values()) / FAR_SLOWER:
            break
        tokens = int(max(2, min(SWEEP_TOKENS, rates[count] * left / (2 * len(counts)))))
        rates[count] = max(engine.decode(tokens).rate for _ in range(2))
    return rates


def choose_threads(engine: Engine, wanted: int, given: int | None, quick: bool) -> dict[str, Any]:
    """Find the best thread count and set it, unless one was given; all else is measured with it.

    A quick sweep tries one thread and the wanted count. An engine that is slow to start again keeps
    what it has.
    """
    counts = sorted({1, wanted}) if quick else thread_counts(usable_cores(), wanted)
    rates = sweep_threads(engine, counts) if engine.sweeps else {}
    best = max(rates, key=lambda count: rates[count]) if rates else None
    used = given or best or wanted
    if given or engine.sweeps:
        engine.set_threads(used)
    return {
        "profile": wanted,
        "best": best,
        "used": used,
        "decode_tokens_per_sec": {str(count): rate for count, rate in rates.items()},
        "not_tried": [count for count in counts if count not in rates],
    }


def speed_scales(profile: dict[str, Any], bandwidth: float) -> dict[str, float]:
    """How much of the target's decode and prefill speed this machine owes; never more than all."""
    target_bandwidth = profile.get("memory_bandwidth_bytes_per_sec") or bandwidth
    target_cores = profile.get("cores") or usable_cores()
    decode = min(1.0, bandwidth / target_bandwidth)
    return {"decode": decode, "prefill": min(decode, usable_cores() / target_cores)}


def check_speed(
    engine: Engine,
    context: int,
    thresholds: dict[str, Any],
    scales: dict[str, float],
    repetitions: int,
) -> tuple[list[Check], dict[str, Any]]:
    """Prefill and decode tokens/s against the scaled limits; what fails is measured once more."""
    wanted = {
        "prefill": (engine.prefill, min(PREFILL_TOKENS, context // 2)),
        "decode": (engine.decode, min(DECODE_TOKENS, context // 2)),
    }
    checks, details = [], {}
    for kind, (work, most) in wanted.items():
        name = kind + "_tokens_per_sec"
        limit = scaled(thresholds.get("min_" + name), scales[kind])
        for _attempt in range(2):
            speed = measure_speed(work, most, repetitions)
            note = f"{speed.tokens} tokens; median {speed.median:.4g}"
            check = at_least(name, speed.best, limit, "tokens/s", note)
            if check.status != FAILED:
                break
        checks.append(check)
        details[name] = asdict(speed)
    return checks, details


def check_ttft(
    engine: Engine, row: dict[str, Any], limit: Any, scales: dict[str, float], repetitions: int
) -> Check:
    """Time to first token: the best of several, so that load elsewhere does not decide."""
    times = [
        engine.answer(row["prompt"], row["add_special"], 1).ttft_sec for _ in range(repetitions)
    ]
    note = "prompt of {} tokens".format(len(row["token_ids"]))
    return at_most("ttft_sec", min(times), scaled(limit, 1 / scales["prefill"]), "s", note)
