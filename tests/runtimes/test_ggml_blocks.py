"""Blocks in memory against gguf's own numpy code and against the quantizer's files."""

from __future__ import annotations

from pathlib import Path

import gguf
import numpy
import pytest
from tiny_gguf import tiny_gguf

from common.errors import UserError
from runtimes.ggml_blocks import columns_of, dequantize_rows, quantize_rows, row_bytes
from runtimes.gguf_file import open_tensors
from runtimes.imatrix_file import Imatrix, ImatrixEntry, write_imatrix
from runtimes.quantizer import quantize

_RANDOM = numpy.random.default_rng(0)
_VALUES = _RANDOM.normal(0, 0.02, (8, 512)).astype(numpy.float32)


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q5_K", "Q6_K", "F16"])
def test_values_are_those_that_gguf_reads(kind: str) -> None:
    blocks = quantize_rows(_VALUES, kind)
    values = dequantize_rows(blocks, kind, 512)
    number = gguf.GGMLQuantizationType[kind]
    assert blocks.shape == (8, row_bytes(kind, 512)) and columns_of(kind, blocks.shape[1]) == 512
    assert numpy.array_equal(values, gguf.quants.dequantize(blocks, number).astype(numpy.float32))
    if kind in ("Q4_0", "Q8_0"):
        assert numpy.array_equal(blocks, gguf.quants.quantize(_VALUES, number))
    assert 0 < numpy.abs(values - _VALUES).max() < 0.02


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K_M", "Q8_0"])
@pytest.mark.parametrize("weighed", [False, True])
def test_blocks_are_those_of_the_file(name: str, weighed: bool, tmp_path: Path) -> None:
    source = tiny_gguf(tmp_path / "f32.gguf", layers=1)
    sums = _RANDOM.uniform(0.1, 2, (1, 256)).astype(numpy.float32)
    names = [n for n in open_tensors(source) if n.startswith("blk.0.") and "norm" not in n]
    matrix = tmp_path / "imatrix.gguf"
    ones = numpy.ones(1, numpy.float32)
    write_imatrix(matrix, Imatrix({n: ImatrixEntry(sums, ones) for n in names}, 1, 512))
    quantize(source, tmp_path / "q.gguf", name, imatrix=matrix if weighed else None)
    before = open_tensors(source)
    kinds = set()
    for tensor_name, tensor in open_tensors(tmp_path / "q.gguf").items():
        kind = tensor.tensor_type.name
        if kind != "F32":
            kinds.add(kind)
            weights = sums[0] if weighed and tensor_name in names else None
            blocks = quantize_rows(before[tensor_name].data, kind, weights)
            assert numpy.array_equal(blocks, tensor.data.reshape(len(blocks), -1)), tensor_name
    assert kinds


def test_refusals() -> None:
    with pytest.raises(UserError, match="rows of 288 weights cannot be Q4_K"):
        quantize_rows(numpy.zeros((2, 288), numpy.float32), "Q4_K")
    with pytest.raises(UserError, match="needs an importance matrix"):
        quantize_rows(_VALUES, "IQ2_XXS")
    bad = _VALUES.copy()
    bad[3, 7] = numpy.nan
    with pytest.raises(UserError, match="not finite"):
        quantize_rows(bad, "Q4_0")
