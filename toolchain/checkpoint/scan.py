"""One pass over a weight file in bounded memory: its SHA-256, and where it holds NaN or Inf."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from common.errors import UserError
from common.resources import explained
from toolchain.checkpoint.info import TensorHeader

BLOCK_BYTES = 1 << 22


@dataclass(frozen=True)
class NonFinite:
    """How many values of a tensor are NaN and how many are infinite."""

    tensor: str
    nan: int
    inf: int


@dataclass(frozen=True)
class FileScan:
    """What one pass over a file found; `tensors` tells how many tensors were looked into."""

    sha256: str
    tensors: int = 0
    non_finite: tuple[NonFinite, ...] = ()


@dataclass(frozen=True)
class _FloatBits:
    """How a float type marks what is not finite: all bits of `exponent` are set.

    `magnitude` masks the sign off; `inf` is the magnitude of infinity, None where there is none.
    """

    unsigned: str
    exponent: int
    magnitude: int
    inf: int | None


# IEEE 754; BF16; the OCP 8-bit formats (https://arxiv.org/abs/2209.05433), E4M3 without Inf.
_FLOATS = {
    "F16": _FloatBits("<u2", 0x7C00, 0x7FFF, 0x7C00),
    "BF16": _FloatBits("<u2", 0x7F80, 0x7FFF, 0x7F80),
    "F32": _FloatBits("<u4", 0x7F80_0000, 0x7FFF_FFFF, 0x7F80_0000),
    "C64": _FloatBits("<u4", 0x7F80_0000, 0x7FFF_FFFF, 0x7F80_0000),
    "F64": _FloatBits("<u8", 0x7FF0_0000_0000_0000, (1 << 63) - 1, 0x7FF0_0000_0000_0000),
    "F8_E5M2": _FloatBits("<u1", 0x7C, 0x7F, 0x7C),
    "F8_E4M3": _FloatBits("<u1", 0x7F, 0x7F, None),
    "F8_E8M0": _FloatBits("<u1", 0xFF, 0xFF, None),
}


def scan_file(
    path: Path,
    tensors: Sequence[TensorHeader] = (),
    progress: Callable[[int], object] | None = None,
) -> FileScan:
    """Digest `path` and look for NaN and Inf in its `tensors` (its own, in the order of the bytes).

    `progress` is called with the number of bytes read since the last call. Raises `UserError` when
    the file cannot be read to its end or changes meanwhile.
    """
    digest = hashlib.sha256()
    buffer = bytearray(BLOCK_BYTES)
    found: list[NonFinite] = []
    try:
        before = path.stat()
        with path.open("rb", buffering=0) as stream:
            for tensor in tensors:
                _pass(stream, tensor.offset - stream.tell(), buffer, digest, progress, None)
                counts = _Counts(tensor.dtype)
                _pass(stream, tensor.size_bytes, buffer, digest, progress, counts.add)
                if counts.nan or counts.inf:
                    found.append(NonFinite(tensor.name, counts.nan, counts.inf))
            _pass(stream, before.st_size - stream.tell(), buffer, digest, progress, None)
        after = path.stat()
    except OSError as error:
        raise explained(error) or UserError(
            f"{path.name} cannot be read: {error.strerror or error}"
        ) from None
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns):
        raise UserError(f"{path} changed while it was read", "try again when it is complete")
    return FileScan(digest.hexdigest(), len(tensors), tuple(found))


class _Counts:
    """Counts NaN and Inf of one tensor, block by block."""

    def __init__(self, dtype: str) -> None:
        self.bits = _FLOATS.get(dtype)
        self.nan = 0
        self.inf = 0

    def add(self, block: memoryview) -> None:
        """Look at a block that holds whole values."""
        if self.bits is None or not block:
            return
        import numpy as np

        values = np.frombuffer(block, dtype=self.bits.unsigned)
        exponents = values & values.dtype.type(self.bits.exponent)
        if exponents.max() != self.bits.exponent:
            return
        suspects = values[exponents == self.bits.exponent]
        magnitudes = suspects & suspects.dtype.type(self.bits.magnitude)
        infinite = 0 if self.bits.inf is None else int((magnitudes == self.bits.inf).sum())
        self.inf += infinite
        self.nan += len(suspects) - infinite


def _pass(
    stream: IO[bytes],
    size_bytes: int,
    buffer: bytearray,
    digest: Any,
    progress: Callable[[int], object] | None,
    look: Callable[[memoryview], None] | None,
) -> None:
    """Read `size_bytes` in blocks of whole values, digest them and let `look` see them."""
    while size_bytes > 0:
        block = memoryview(buffer)[: min(size_bytes, BLOCK_BYTES)]
        _read_fully(stream, block)
        digest.update(block)
        if look is not None:
            look(block)
        if progress is not None:
            progress(len(block))
        size_bytes -= len(block)


def _read_fully(stream: IO[bytes], block: memoryview) -> None:
    done = 0
    while done < len(block):
        count = stream.readinto(block[done:])  # type: ignore[attr-defined]
        if not count:
            raise OSError("it ends too early")
        done += count
