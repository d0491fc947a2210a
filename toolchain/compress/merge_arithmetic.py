"""The arithmetic of a merge, block by block in float32.

LoRA (https://arxiv.org/abs/2106.09685): W' = W + s·B·A.
DoRA (https://arxiv.org/abs/2402.09353): W' = m · (W + s·B·A) / ‖W + s·B·A‖, a norm per output.
A tensor stored as (in, out) takes the transpose of s·B·A, and its outputs are columns.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING

from toolchain.compress.float_blocks import read_blocks, read_tensor
from toolchain.compress.merge_plan import OutTensor

if TYPE_CHECKING:
    from toolchain.compress.float_blocks import Floats


def merged_blocks(out: OutTensor, base: IO[bytes], adapter: IO[bytes]) -> Iterator[Floats]:
    """The result's values in order, flattened in the stored layout. The streams are the files of
    the base's tensor and of the adapter."""
    change = out.change
    if change is None:
        yield from read_blocks(base, out.base, 1)
        return
    values = change.replaced or out.base
    stream = adapter if change.replaced is not None else base
    if change.lora is not None:
        yield from _low_rank(out, stream, adapter)
    elif change.added_bias is not None:
        bias = read_tensor(stream, values)
        bias += change.bias_scaling * read_tensor(adapter, change.added_bias)
        yield bias
    else:
        yield from read_blocks(stream, values, 1)


def _low_rank(out: OutTensor, stream: IO[bytes], adapter: IO[bytes]) -> Iterator[Floats]:
    import numpy as np

    change = out.change
    assert change is not None and change.lora is not None
    lora = change.lora
    down, up = read_tensor(adapter, lora.down), read_tensor(adapter, lora.up)
    left, right = (down.T, up.T) if change.transposed else (up, down)
    # The scale goes onto the small side, not onto every value of the product.
    right = right * np.float32(lora.scaling)
    values = change.replaced or out.base

    def blocks() -> Iterator[tuple[slice, Floats]]:
        start = 0
        for block in read_blocks(stream, values, values.shape[1]):
            rows = slice(start, start + len(block))
            block += left[rows] @ right
            yield rows, block
            start = rows.stop

    if lora.magnitude is None:
        yield from (block for _, block in blocks())
        return
    magnitude = read_tensor(adapter, lora.magnitude).reshape(-1)
    if change.transposed:
        squares = np.zeros(values.shape[1], np.float64)
        for _, block in blocks():
            squares += np.einsum("ij,ij->j", block, block, dtype=np.float64)
        factor = (magnitude / np.sqrt(squares)).astype(np.float32)
        yield from (block * factor for _, block in blocks())
        return
    for rows, block in blocks():
        norms = np.sqrt(np.einsum("ij,ij->i", block, block, dtype=np.float64))
        yield block * (magnitude[rows] / norms).astype(np.float32)[:, None]
