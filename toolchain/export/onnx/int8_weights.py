"""8-bit and 4-bit weights for onnxruntime's kernels: one scale per output channel, or per block.

All are symmetric. A weight of a `MatMul` is `[in, out]`, as ONNX has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK_ZERO = 128
BLOCK4_SIZE = 32
_ZERO4 = 8
_CODES4 = 15  # the highest of 4 bits
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
    `[out, blocks]`; a weight is its scale times its code less 8.

    A block's largest weight gets each of the codes in turn, and the scale with the least squared
    error counts. Weights that lie on such a grid already, as rounding into Q4_0 blocks leaves them,
    stay what they are.
    """
    import numpy as np

    inner, outer = weight.shape
    blocks = -(-inner // BLOCK4_SIZE)
    packed = np.empty((outer, blocks, BLOCK4_SIZE // 2), np.uint8)
    scales = np.empty((outer, blocks), np.float32)
    for start in range(0, outer, _COLUMNS_AT_A_TIME):
        part = slice(start, start + _COLUMNS_AT_A_TIME)
        rows = np.zeros((weight[:, part].shape[1], blocks * BLOCK4_SIZE), np.float32)
        rows[:, :inner] = weight[:, part].T
        own = rows.reshape(len(rows), blocks, BLOCK4_SIZE)
        codes, scales[part] = _nearest4(own)
        packed[part] = codes[..., ::2] | codes[..., 1::2] << np.uint8(4)
    return packed, scales


def _nearest4(
    blocks: NDArray[np.float32],
) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    """Codes [rows, blocks, 32] and scales [rows, blocks]."""
    import numpy as np

    at = np.abs(blocks).argmax(-1, keepdims=True)
    largest = np.take_along_axis(blocks, at, -1)
    least = np.full(blocks.shape[:2], np.inf, np.float32)
    best = np.zeros(blocks.shape, np.uint8)
    scales = np.ones(blocks.shape[:2], np.float32)
    for code in range(_CODES4 + 1):
        if code == _ZERO4:  # a largest weight of zero: the block is all zeros
            continue
        scale = np.where(largest != 0, largest / np.float32(code - _ZERO4), np.float32(1))
        codes = np.clip(np.rint(blocks / scale) + _ZERO4, 0, _CODES4)
        error = np.square((codes - _ZERO4) * scale - blocks).sum(-1)
        better = error < least
        least = np.where(better, error, least)
        best[better] = codes[better].astype(np.uint8)
        scales = np.where(better, scale[..., 0], scales)
    return best, scales


def _scales(largest: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """What a step is worth; 1 where all weights are 0."""
    import numpy as np

    return np.where(largest > 0, largest / steps, 1).astype(np.float32)
