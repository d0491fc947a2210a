"""Which CPUs multiply INT8 fast, and which need weights of 7 bits."""

from __future__ import annotations

from pathlib import Path

import pytest

from runtimes.cpu_int8 import cpu_flags, int8_support


@pytest.mark.parametrize(
    ("machine", "flags", "fast", "reduced"),
    [
        ("x86_64", ("avx2", "avx512f", "avx512_vnni"), True, False),
        ("x86_64", ("avx2", "avx_vnni"), True, False),
        ("x86_64", ("avx2", "avx512f"), False, True),
        ("AMD64", ("avx2",), False, True),
        ("aarch64", ("fp", "asimd", "asimddp"), True, False),
        ("aarch64", ("fp", "asimd"), False, False),
        ("arm64", (), True, False),
    ],
)
def test_by_flags(machine: str, flags: tuple[str, ...], fast: bool, reduced: bool) -> None:
    found = int8_support(flags, machine)
    assert (found.fast, found.reduce_range) == (fast, reduced)
    assert (found.warning == "") is fast
    assert ("7 bits" in found.warning) is reduced


def test_flags_come_from_the_first_cpu(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nflags\t\t: fpu avx2 avx_vnni\n\nprocessor : 1\nflags : fpu\n")
    assert cpu_flags(file) == {"fpu", "avx2", "avx_vnni"}
    assert cpu_flags(tmp_path / "none") == frozenset()
