"""What a CPU does with int8 follows from its flags."""

from __future__ import annotations

from pathlib import Path

from runtimes.cpu_int8 import cpu_flags, int8_support


def test_x86_with_and_without_vnni() -> None:
    for flag in ("avx512_vnni", "avx_vnni"):
        assert int8_support(["avx2", flag], "x86_64").fast
    old = int8_support(["avx2", "fma"], "x86_64")
    assert old.reduce_range and not old.fast
    assert "no VNNI" in old.warning and "7 bits" in old.warning


def test_arm_needs_no_reduced_range() -> None:
    assert int8_support(["fp", "asimd", "asimddp"], "aarch64").fast
    plain = int8_support(["fp", "asimd"], "aarch64")
    assert not plain.fast and not plain.reduce_range and "asimddp" in plain.warning


def test_flags_are_read(tmp_path: Path) -> None:
    file = tmp_path / "cpuinfo"
    file.write_text("processor : 0\nflags\t\t: fpu avx2 avx512_vnni\n\nflags : other\n", "utf-8")
    assert cpu_flags(file) == {"fpu", "avx2", "avx512_vnni"}
    assert cpu_flags(tmp_path / "none") == frozenset()
