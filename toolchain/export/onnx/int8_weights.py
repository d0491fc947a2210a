"""8-bit weights for onnxruntime's kernels: one scale per output channel, or one per block.

All are symmetric. A weight of a `MatMul` is `[in, out]`, as ONNX has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK_ZERO = 128
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


def _scales(largest: NDArray[np.float32], steps: int) -> NDArray[np.float32]:
    """What a step is worth; 1 where all weights are 0."""
    import numpy as np

    return np.where(largest > 0, largest / steps, 1).astype(np.float32)
