"""Whether a CPU multiplies 8-bit integers without overflow, and what to do where it does not.

x86 CPUs without VNNI add products of pairs in 16 bits: unsigned activations times signed 8-bit
weights can overflow there, silently. Weights of 7 bits (`reduce_range`) cannot.
"""

from __future__ import annotations

import platform
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
_VNNI = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})
_ARM_DOT = frozenset({"asimddp", "i8mm", "sve"})
_X86 = frozenset({"x86_64", "amd64", "i686", "i386"})


@dataclass(frozen=True)
class Int8Support:
    """`fast`: the CPU has dot products of 8-bit integers. `reduce_range`: weights should keep to 7
    bits. `warning` says in words what to expect; empty where there is nothing to say."""

    fast: bool
    reduce_range: bool
    warning: str = ""


def int8_support(flags: Collection[str] | None = None, machine: str | None = None) -> Int8Support:
    """What this CPU does with int8; `flags` and `machine` describe another one."""
    found = frozenset(cpu_flags() if flags is None else flags)
    if (machine or platform.machine()).lower() not in _X86:
        fast = bool(found & _ARM_DOT) or not found  # Apple's CPUs list no flags and have it
        return Int8Support(fast, False, "" if fast else _slow("dot product instructions (asimddp)"))
    if found & _VNNI:
        return Int8Support(True, False)
    warning = f"{_slow('VNNI')}; weights should keep to 7 bits so that sums are right"
    return Int8Support(False, True, warning)


def cpu_flags(cpuinfo: Path = _CPUINFO) -> frozenset[str]:
    """Flags of the first CPU in Linux's `/proc/cpuinfo`; empty elsewhere."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return frozenset()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip().lower() in ("flags", "features"):
            return frozenset(value.split())
    return frozenset()


def _slow(what: str) -> str:
    return f"this CPU has no {what}: INT8 works, but is little or no faster than FP32"
