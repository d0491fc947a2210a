"""This machine: cores, load, CPU, memory bandwidth."""

from __future__ import annotations

import ctypes
import os
import platform
import threading
import time
from pathlib import Path
from typing import Any

COPY_BYTES, COPY_REPETITIONS = 64 << 20, 5


def usable_cores() -> int:
    """Cores that this process may use: affinity and cgroup quota count, not what the CPU has."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        pass
    return cores


def load_per_core() -> float:
    try:
        return os.getloadavg()[0] / usable_cores()
    except OSError:
        return 0.0


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """Instruction sets that decide which kernels onnxruntime takes, and so how they round."""
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return [name for name in wanted if name in flags.split()]


def copy_bandwidth() -> float:
    """Memory bandwidth in bytes per second: bytes read plus bytes written by memmove.

    The best of several copies of 64 MiB, by one thread and by one per core (ctypes calls run
    outside the interpreter's lock). A copy reaches some 60 to 90 % of the figure on a data sheet,
    so limits scaled with it lean to the mild side.
    """
    source, sink = bytearray(COPY_BYTES), bytearray(COPY_BYTES)
    from_, to = ((ctypes.c_char * COPY_BYTES).from_buffer(buffer) for buffer in (source, sink))
    ctypes.memset(from_, 1, COPY_BYTES)  # so that the pages are real ones, not the shared zero page
    ctypes.memset(to, 2, COPY_BYTES)
    best_sec = float("inf")
    for threads in sorted({1, usable_cores()}):
        for _ in range(COPY_REPETITIONS):
            best_sec = min(best_sec, _copy_sec(from_, to, threads))
    return 2 * COPY_BYTES / best_sec


def _copy_sec(source: Any, sink: Any, threads: int) -> float:
    part = COPY_BYTES // threads
    starts = (ctypes.addressof(sink), ctypes.addressof(source))

    def copy(index: int) -> None:
        ctypes.memmove(starts[0] + index * part, starts[1] + index * part, part)

    workers = [threading.Thread(target=copy, args=(index,)) for index in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - start


def machine_facts() -> dict[str, Any]:
    return {
        "architecture": platform.machine(),
        "cpu": cpu_name(),
        "usable_cores": usable_cores(),
        "python": platform.python_version(),
        "load_per_core_before": load_per_core(),
    }
