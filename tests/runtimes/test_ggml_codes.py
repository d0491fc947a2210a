"""Codes inside blocks: read and put back, and what they are worth."""

from __future__ import annotations

import numpy
import pytest

from runtimes.ggml_blocks import dequantize_rows, quantize_rows
from runtimes.ggml_codes import CODED, code_count, codes_of, grid, levels, with_codes

_RANDOM = numpy.random.default_rng(0)
_VALUES = _RANDOM.normal(0.01, 0.02, (6, 512)).astype(numpy.float32)


@pytest.mark.parametrize("kind", sorted(CODED))
def test_codes_on_their_grid_are_the_values(kind: str) -> None:
    blocks = quantize_rows(_VALUES, kind)
    codes, (base, step) = codes_of(blocks, kind), grid(blocks, kind)
    values = dequantize_rows(blocks, kind, 512)
    assert codes.max() < code_count(kind) and len(numpy.unique(codes)) > code_count(kind) / 2
    numpy.testing.assert_allclose(base + step * levels(kind)[codes], values, rtol=1e-4, atol=1e-6)
    # ggml's codes are the nearest on their grid, but for what moved when the scale was settled.
    between = numpy.diff(levels(kind)).max() / 2
    near = numpy.abs(values - _VALUES) <= 1.02 * between * numpy.abs(step) + 1e-6
    assert near.mean() > 0.97


@pytest.mark.parametrize("kind", sorted(CODED))
def test_codes_that_are_put_in_are_read_and_leave_the_scales(kind: str) -> None:
    blocks = quantize_rows(_VALUES, kind)
    codes = _RANDOM.integers(0, code_count(kind), (6, 512)).astype(numpy.uint8)
    changed = with_codes(blocks, kind, codes)
    assert numpy.array_equal(codes_of(changed, kind), codes)
    assert numpy.array_equal(with_codes(changed, kind, codes_of(blocks, kind)), blocks)
    base, step = grid(blocks, kind)
    numpy.testing.assert_allclose(
        dequantize_rows(changed, kind, 512), base + step * levels(kind)[codes], rtol=1e-4, atol=1e-6
    )
