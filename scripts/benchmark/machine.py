"""The machine that figures come from: what it is, what it can read from memory, what else ran."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from runtimes.cores import Load, free_cores
from runtimes.energy import Meter
from runtimes.host import measure_bandwidth_bytes_per_sec, read_host

INSTRUCTIONS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "avx512_bf16")
_ARM_INSTRUCTIONS = ("neon", "dotprod", "i8mm", "bf16", "sve", "sve2")
_PACKAGES = (
    *("torch", "transformers", "onnxruntime", "onnxruntime-genai", "llama-cpp-python", "numpy"),
)
NOT_READABLE = "not readable here"
# More foreign work than this, in cores, and single figures are not to be trusted.
_NOISY_CORES = 0.3


def read_machine(cores: Sequence[int], meter: Meter | None) -> dict[str, Any]:
    """Facts before the run. Bandwidth is measured now, with one thread and on all free cores."""
    host = read_host()
    known = _ARM_INSTRUCTIONS if host.arch in ("aarch64", "arm64") else INSTRUCTIONS
    return {
        "cpu_model": host.cpu_model,
        "arch": host.arch,
        "os": host.os,
        "physical_cores": host.physical_cores,
        "logical_cores": host.logical_cores,
        "usable_cores": host.usable_cores,
        "free_cores": list(cores),
        "instructions": {name: name in host.instructions for name in known},
        "memory_total_bytes": host.memory_total_bytes,
        "memory_available_bytes": host.memory_available_bytes,
        "load_1min_before": host.load_1min,
        "read_bandwidth_bytes_per_sec": read_bandwidths(len(cores)),
        "energy": meter.source if meter else NOT_READABLE,
        "python": platform.python_version(),
        "versions": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def read_bandwidths(cores: int) -> dict[str, float]:
    """Memory read bandwidth by thread count: 1, and as many as there are free cores."""
    return {str(n): measure_bandwidth_bytes_per_sec(n) for n in sorted({1, cores})}


def highest_bandwidths(
    before: Mapping[str, float], rounds: Mapping[int, Mapping[int, float]]
) -> dict[str, float]:
    """By thread count the highest measured: other work only ever lowers what can be read."""
    highest = dict(before)
    for threads, by_round in rounds.items():
        values = [*by_round.values(), highest.get(str(threads), 0.0)]
        highest[str(threads)] = max(values)
    return dict(sorted(highest.items(), key=lambda item: int(item[0])))


def load_summary(loads: Sequence[Load]) -> dict[str, Any]:
    """What other work took during the run, in cores: over all turns of all engines."""
    from benchmark.statistics import percentile

    foreign = [load.foreign_cores for load in loads] or [0.0]
    median = percentile(foreign, 50)
    return {
        "load_1min_after": os.getloadavg()[0],
        "foreign_cores_median": median,
        "foreign_cores_max": max(foreign),
        "steal_share_max": max((load.steal_share for load in loads), default=0.0),
        "busy": median > _NOISY_CORES,
    }


def choose_cores(threads: int | None) -> tuple[int, ...]:
    """The cores to pin to: those that are free, or as many of the idlest as `threads` asks for."""
    cores = free_cores()
    if threads is None or threads <= len(cores):
        return cores if threads is None else cores[:threads]
    every = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else range(threads)
    return tuple([*cores, *(core for core in every if core not in cores)][:threads])


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
