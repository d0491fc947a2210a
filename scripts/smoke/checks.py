"""One figure against its limit, and the names of all checks in their order."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .bundle import verify_sums

PASSED, FAILED, NOT_MEASURED, NO_LIMIT = "passed", "failed", "not measured", "no limit"


@dataclass(frozen=True)
class Check:
    """One figure against its limit. `limit` is None where the profile sets none."""

    name: str
    value: Any = None
    limit: Any = None
    unit: str = ""
    status: str = NOT_MEASURED
    note: str = ""


def at_least(name: str, value: float, limit: Any, unit: str, note: str = "") -> Check:
    status = NO_LIMIT if limit is None else PASSED if value >= limit else FAILED
    return Check(name, value, limit, unit, status, note)


def at_most(name: str, value: float, limit: Any, unit: str, note: str = "") -> Check:
    status = NO_LIMIT if limit is None else PASSED if value <= limit else FAILED
    return Check(name, value, limit, unit, status, note)


CHECKS = (
    "digests",
    "load_sec",
    "prompt_token_ids",
    "equal_answers",
    "agreeing_prefix",
    "stop_token",
    "task_score",
    "prefill_tokens_per_sec",
    "decode_tokens_per_sec",
    "ttft_sec",
    "peak_rss_bytes",
    "gpu_memory_bytes",
    "power_watts",
    "joules_per_token",
    "temperature_celsius",
)


ENCODER_CHECKS = (
    "digests",
    "load_sec",
    "equal_labels",
    "max_output_difference",
    "task_score",
    "latency_sec",
    "texts_per_sec",
    "peak_rss_bytes",
)


def check_rss(value: int | None, limit: Any) -> Check:
    if value is None:
        note = "not readable here: the model's process is another user's or on another machine"
        return Check("peak_rss_bytes", note=note)
    return at_most("peak_rss_bytes", value, limit, "bytes")


def check_digests(bundle: Path) -> Check:
    faults = verify_sums(bundle)
    note = "; ".join(faults[:8]) + ("; …" if len(faults) > 8 else "")
    return replace(at_most("digests", len(faults), 0, "faults"), note=note)


def scaled(limit: Any, scale: float) -> Any:
    return None if limit is None else limit * scale
