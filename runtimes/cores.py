"""Which cores to measure on, and how busy other work keeps the machine meanwhile.

cores = free_cores()
watch = LoadWatch(cores); watch.start(pid); ...; watch.stop().foreign_cores
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from runtimes.cgroup import cpu_quota

_SAMPLE_SEC = 0.5
_BUSY_PERCENT = 50.0


def free_cores(root: Path = Path("/"), sample_sec: float = _SAMPLE_SEC) -> tuple[int, ...]:
    """Numbers of the cores that other work leaves free now, the idlest first; at least one.

    One logical core of each physical one, within this process's affinity and its container's
    quota: hyper-threads share the units that matrix products wait for.
    """
    import psutil

    busy = psutil.cpu_percent(interval=sample_sec, percpu=True)
    allowed = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else None
    order = sorted(allowed or range(len(busy)), key=lambda core: (_busy(busy, core), core))
    chosen: list[int] = []
    seen: set[str] = set()
    for core in order:
        siblings = _siblings(root, core)
        if siblings not in seen:
            seen.add(siblings)
            chosen.append(core)
    free = [core for core in chosen if _busy(busy, core) < _BUSY_PERCENT] or chosen[:1]
    quota = cpu_quota(root)
    return tuple(free[: max(1, int(quota))] if quota else free)


def pin(cores: Iterable[int]) -> bool:
    """Keep this process (and the threads it starts) on these cores; False where the system has no
    such call."""
    if not hasattr(os, "sched_setaffinity"):
        return False
    os.sched_setaffinity(0, set(cores))
    return True


@dataclass(frozen=True)
class Load:
    """What ran while something was measured: `foreign_cores` is the CPU time per second that
    neither the measured process nor idling took; `steal_share` what a hypervisor kept back."""

    foreign_cores: float
    steal_share: float


class LoadWatch:
    """CPU time of the whole machine less that of one process, between `start` and `stop`."""

    def start(self, pid: int) -> None:
        self._pid = pid
        self._at = time.perf_counter()
        self._machine, self._own = _machine_sec(), _process_sec(pid)

    def stop(self) -> Load:
        elapsed = max(time.perf_counter() - self._at, 1e-6)
        (busy, steal), own = _machine_sec(), _process_sec(self._pid)
        foreign = busy - self._machine[0] - (own - self._own)
        stolen = steal - self._machine[1]
        return Load(max(0.0, foreign / elapsed), max(0.0, stolen / elapsed))


def _machine_sec() -> tuple[float, float]:
    """CPU seconds that the machine was busy, and those stolen from it, since it started."""
    import psutil

    times = psutil.cpu_times()
    idle = times.idle + getattr(times, "iowait", 0.0)
    # Guests' time is contained in user's.
    guests = getattr(times, "guest", 0.0) + getattr(times, "guest_nice", 0.0)
    steal = getattr(times, "steal", 0.0)
    return sum(times) - guests - idle - steal, steal


def _process_sec(pid: int) -> float:
    import psutil

    try:
        times = psutil.Process(pid).cpu_times()
    except psutil.Error:
        return 0.0
    return float(times.user + times.system)


def _busy(busy: list[float], core: int) -> float:
    return busy[core] if core < len(busy) else 0.0


def _siblings(root: Path, core: int) -> str:
    path = root / f"sys/devices/system/cpu/cpu{core}/topology/thread_siblings_list"
    try:
        return path.read_text(encoding="utf-8").strip()
    except OSError:
        return str(core)
