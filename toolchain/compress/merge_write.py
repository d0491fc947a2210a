"""Write merged shards tensor by tensor: the header is known before the first value is."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO

from common.errors import UserError
from toolchain.compress.float_blocks import to_bytes
from toolchain.compress.merge_arithmetic import merged_blocks
from toolchain.compress.merge_plan import OutTensor

_COPY_BYTES = 1 << 22
_ALIGNMENT = 8


def write_shard(
    path: Path,
    tensors: Sequence[OutTensor],
    source: Path,
    adapter_weights: Path,
    advance: Callable[[int], object],
) -> None:
    """Write one shard of the result from the base's file `source`; `advance` hears of every block
    written, in bytes."""
    with path.open("wb") as out, source.open("rb") as base, adapter_weights.open("rb") as adapter:
        out.write(_header(tensors))
        for tensor in tensors:
            if tensor.change is None and tensor.dtype == tensor.base.dtype:
                _copy(base, out, tensor, advance)
                continue
            for block in merged_blocks(tensor, base, adapter):
                stored = to_bytes(block, tensor.dtype, tensor.name)
                out.write(stored.data)
                advance(stored.nbytes)


def _header(tensors: Sequence[OutTensor]) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for tensor in tensors:
        end = position + tensor.size_bytes
        entries[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": list(tensor.base.shape),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def _copy(
    base: IO[bytes], out: IO[bytes], tensor: OutTensor, advance: Callable[[int], object]
) -> None:
    base.seek(tensor.base.offset)
    left = tensor.size_bytes
    while left:
        block = base.read(min(left, _COPY_BYTES))
        if not block:
            raise UserError(f"{tensor.base.file} ends too early: it changed while it was read")
        out.write(block)
        advance(len(block))
        left -= len(block)
