"""How many threads an engine should use at this moment.

`EDGEFORGE_THREADS=N` in the environment fixes it, for builds that are to be compared.
"""

from __future__ import annotations

import os

from common.errors import UserError
from runtimes.cgroup import cpu_quota

FIXED = "EDGEFORGE_THREADS"
_LOAD_SAMPLE_SEC = 0.1
_BUSY_PERCENT = 50.0
_MOST_THREADS = 1024


def free_cores(threads: int) -> bool:
    """Whether so many of the CPUs that this process may use are idle at this moment."""
    return len(_idle()) >= threads


def idle_cores() -> int:
    """Physical cores that other work leaves free at this moment, at least one.

    llama.cpp's threads wait for each other at every layer: one thread more than there are free
    cores costs up to a hundredfold, one less only its share.
    """
    if fixed := fixed_threads():
        return fixed
    import psutil

    idle = len(_idle())
    limits = [idle, psutil.cpu_count(logical=False) or idle, int(cpu_quota() or idle)]
    return max(1, min(limits))


def fixed_threads() -> int | None:
    """The count that the environment fixes, if any. Raises `UserError` when it is no number."""
    text = os.environ.get(FIXED)
    if not text:
        return None
    if not text.isdecimal() or not 1 <= int(text) <= _MOST_THREADS:
        raise UserError(
            f"{FIXED} is '{text}', which is no number of threads", f"1 to {_MOST_THREADS}"
        )
    return int(text)


def _idle() -> list[int]:
    """CPUs that this process may use and that other work leaves alone."""
    import psutil

    busy = psutil.cpu_percent(interval=_LOAD_SAMPLE_SEC, percpu=True)
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(len(busy))
    return [core for core in allowed if core < len(busy) and busy[core] < _BUSY_PERCENT]
