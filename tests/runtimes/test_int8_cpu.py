"""Which CPUs multiply INT8 fast, and which need weights of 7 bits."""

from __future__ import annotations

import pytest

from runtimes.int8_cpu import has_int8_dot_product, int8_warning, needs_reduced_range


@pytest.mark.parametrize(
    ("arch", "instructions", "fast", "reduced"),
    [
        ("x86_64", ("avx2", "avx512f", "avx512_vnni"), True, False),
        ("x86_64", ("avx2", "avx_vnni"), True, False),
        ("x86_64", ("avx2", "avx512f"), False, True),
        ("AMD64", ("avx2",), False, True),
        ("aarch64", ("neon", "dotprod"), True, False),
        ("aarch64", ("neon",), False, False),
    ],
)
def test_by_instructions(
    arch: str, instructions: tuple[str, ...], fast: bool, reduced: bool
) -> None:
    assert has_int8_dot_product(instructions) is fast
    assert needs_reduced_range(arch, instructions) is reduced
    warning = int8_warning(arch, instructions)
    assert (warning == "") is fast
    assert ("7 bits" in warning) is reduced
