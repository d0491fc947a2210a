"""Float tensors of safetensors files as blocks of float32, and back, in a few megabytes of memory.

numpy has no bfloat16: it is the upper half of a float32, rounded to nearest even. Nothing is mapped
into memory, as mapped pages count as resident.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import IO, TYPE_CHECKING, Any

from common.errors import UserError
from toolchain.checkpoint.info import TensorHeader

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BLOCK_ELEMENTS = 1 << 20
_STORED = {"F32": "<f4", "F16": "<f2", "F64": "<f8", "BF16": "<u2"}
_BYTES = {"F32": 4, "F16": 2, "F64": 8, "BF16": 2}
# Above these float32 values the type has only infinity.
_LARGEST = {"F32": 3.4028235e38, "F16": 65519.0, "F64": 3.4028235e38, "BF16": 3.3895313e38}

if TYPE_CHECKING:
    Floats = NDArray[np.float32]


def is_float(dtype: str) -> bool:
    """Whether tensors of this safetensors type can be computed with."""
    return dtype in _STORED


def item_bytes(dtype: str) -> int:
    """Bytes of one value of a float type."""
    return _BYTES[dtype]


def read_blocks(stream: IO[bytes], tensor: TensorHeader, width: int) -> Iterator[Floats]:
    """The tensor as float32 blocks of shape (rows, width), in order."""
    import numpy as np

    step = max(1, BLOCK_ELEMENTS // max(width, 1)) * width
    stored = np.dtype(_STORED[tensor.dtype])
    for start in range(0, tensor.elements, step):
        count = min(step, tensor.elements - start)
        stream.seek(tensor.offset + start * stored.itemsize)
        raw = stream.read(count * stored.itemsize)
        if len(raw) != count * stored.itemsize:
            raise UserError(f"{tensor.file} ends too early: it changed while it was read")
        yield _to_float32(np.frombuffer(raw, stored), tensor.dtype).reshape(-1, width)


def read_tensor(stream: IO[bytes], tensor: TensorHeader) -> Floats:
    """A whole small tensor as float32, in its shape."""
    import numpy as np

    blocks = list(read_blocks(stream, tensor, 1))
    values = np.concatenate(blocks) if blocks else np.empty(0, np.float32)
    return values.reshape(tensor.shape)


def to_bytes(values: Floats, dtype: str, name: str) -> Any:
    """The values in a stored type, as a contiguous array. `UserError` when they do not fit it."""
    import numpy as np

    if values.size and not max(float(values.max()), -float(values.min())) <= _LARGEST[dtype]:
        raise UserError(
            f"merging gives values in {name} that {dtype} cannot hold (NaN, Inf or too large)",
            "the adapter is broken, or --dtype is too narrow: try --dtype float32",
        )
    if dtype != "BF16":
        return np.ascontiguousarray(values, dtype=_STORED[dtype])
    bits = np.ascontiguousarray(values, dtype="<f4").view("<u4")
    odd = bits >> np.uint32(16)
    odd &= np.uint32(1)
    odd += np.uint32(0x7FFF)
    odd += bits
    odd >>= np.uint32(16)
    return odd.astype("<u2")


def _to_float32(values: NDArray[Any], dtype: str) -> Floats:
    import numpy as np

    if dtype == "BF16":
        bits = values.astype("<u4")
        bits <<= np.uint32(16)
        return bits.view("<f4")
    return values.astype("<f4")  # a copy: what was read is read-only
