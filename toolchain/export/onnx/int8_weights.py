"""8-bit and 4-bit weights for onnxruntime's kernels: one scale per output channel, or per block.

All are symmetric. A weight of a `MatMul` is `[in, out]`, as ONNX has it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK_ZERO = 128
GRID_BLOCK = 32
_ZERO4 = 8
_COLUMNS_AT_A_TIME = 4096


def per_channel(
    weight: NDArray[np.float32], *, reduce_range: bool = False
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """`[in, out]` to int8 `[in, out]` and scales `[out]`.

    `reduce_range` keeps to 7 bits: products of pairs then fit the 16-bit sums of CPUs without VNNI.
    """
    import numpy as np

    largest = 63 if reduce_range else 127
    quantized = np.empty(weight.shape, np.int8)
    scales = np.empty(weight.shape[1], np.float32)
    for start in range(0, weight.shape[1], _COLUMNS_AT_A_TIME):
        part = slice(start, start + _COLUMNS_AT_A_TIME)
        scales[part] = _scales(np.abs(weight[:, part]).max(axis=0), largest)
        quantized[:, part] = np.rint(weight[:, part] / scales[part]).astype(np.int8)
    return quantized, scales


def per_block(
    weight: NDArray[np.float32], block_size: int
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """`[in, out]` to `MatMulNBits`' uint8 `[out, blocks, block_size]` and scales `[out, blocks]`.

    Zero is stored as 128; a last block that is not full is padded with zeros.
    """
    import numpy as np

    inner, outer = weight.shape
    blocks = -(-inner // block_size)
    quantized = np.full((outer, blocks * block_size), BLOCK_ZERO, np.uint8)
    scales = np.empty((outer, blocks), np.float32)
    for block in range(blocks):
        rows = slice(block * block_size, min(inner, (block + 1) * block_size))
        scales[:, block] = _scales(np.abs(weight[rows]).max(axis=0), 127)
        values = np.rint(weight[rows] / scales[:, block]) + BLOCK_ZERO
        quantized[:, rows] = values.T.astype(np.uint8)
    return quantized.reshape(outer, blocks, block_size), scales


def per_block4(
    weight: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """`[in, out]` to `MatMulNBits`' uint8 `[out, blocks, 16]`, two weights a byte, and scales
    `[out, blocks]`; a weight is its scale times its code less 8. Scales as in `per_grid`."""
    import numpy as np

    codes, scales = _on_grid(weight, _ZERO4, tuple(c for c in range(-_ZERO4, _ZERO4) if c))
    return codes[..., ::2] | codes[..., 1::2] << np.uint8(4), scales


def per_grid(
    weight: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """As `per_block` with blocks of 32, but a block's largest weight gets each of the higher codes
    in turn, and the scale with the least squared error counts. Weights that lie on such a grid
    already, as rounding into Q8_0 blocks leaves them, stay what they are."""
    return _on_grid(weight, BLOCK_ZERO, range(BLOCK_ZERO // 2, BLOCK_ZERO + 1), signed=False)


def _on_grid(
    weight: NDArray[np.float32], zero: int, tried: Sequence[int], *, signed: bool = True
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes `[out, blocks, 32]` and scales `[out, blocks]`; `tried` are the codes, less zero, that
    the largest weight may have. A scale has its sign where they are `signed`."""
    import numpy as np

    inner, outer = weight.shape
    blocks = -(-inner // GRID_BLOCK)
    codes = np.empty((outer, blocks, GRID_BLOCK), np.uint8)
    scales = np.empty((outer, blocks), np.float32)
    for start in range(0, outer, _COLUMNS_AT_A_TIME):
        part = slice(start, start + _COLUMNS_AT_A_TIME)
        rows = np.zeros((weight[:, part].shape[1], blocks * GRID_BLOCK), np.float32)
        rows[:, :inner] = weight[:, part].T
        own = rows.reshape(len(rows), blocks, GRID_BLOCK)
        largest = np.take_along_axis(own, np.abs(own).argmax(-1, keepdims=True), -1)[..., 0]
        candidates = largest if signed else np.abs(largest)
        codes[part], scales[part] = _nearest(own, candidates, zero, tried)
    return codes, scales


def _nearest(
    blocks: NDArray[np.float32], largest: NDArray[np.float32], zero: int, tried: Sequence[int]
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes and scales with the least squared error; blocks of zeros get the scale 1."""
    import numpy as np

    least = np.full(blocks.shape[:2], np.inf, np.float32)
    best = np.zeros(blocks.shape, np.uint8)
    scales = np.ones(blocks.shape[:2], np.float32)
    for code in tried:
        scale = np.where(largest != 0, largest / np.float32(code), np.float32(1))
        steps = np.clip(np.rint(blocks / scale[..., None]), -zero, zero - 1)
        error = np.square(steps * scale[..., None] - blocks).sum(-1)
        better = error < least
        least = np.where(better, error, least)
        best[better] = (steps[better] + zero).astype(np.uint8)
        scales = np.where(better, scale, scales)
    return best, scales


def _scales(largest: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """What a step is worth; 1 where all weights are 0."""
    import numpy as np

    return np.where(largest > 0, largest / steps, 1).astype(np.float32)
