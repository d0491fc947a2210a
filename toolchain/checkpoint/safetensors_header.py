"""The header of a safetensors file, read strictly: nothing in it is trusted before it is checked.

Format: 8 bytes header length (little-endian), that many bytes of JSON, then the tensors' bytes
without gaps (https://github.com/huggingface/safetensors#format).
"""

from __future__ import annotations

import json
import math
import struct
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.resources import explained
from toolchain.checkpoint.info import TensorHeader

MAX_HEADER_BYTES = 100_000_000
LENGTH_BYTES = 8
_NUMBERS_END = 1 << 64
_FETCH_AGAIN = "fetch or copy the file again"
_LFS_MARK = b"version https://git-lfs"
DTYPE_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "U16": 16, "I16": 16, "U32": 32, "I32": 32, "U64": 64, "I64": 64,
    "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "F8_E4M3FNUZ": 8, "F8_E5M2FNUZ": 8, "F4": 4,
    "F6_E2M3": 6, "F6_E3M2": 6, "F16": 16, "BF16": 16, "F32": 32, "F64": 64, "C64": 64,
}  # fmt: skip


def read_header(path: Path) -> tuple[TensorHeader, ...]:
    """Every tensor of one file, in the order of its bytes. `UserError` names the file's fault."""
    try:
        size_bytes = path.stat().st_size
        with path.open("rb") as stream:
            start = stream.read(LENGTH_BYTES)
            header_bytes = _header_length(path, start, size_bytes, stream.read(32))
            stream.seek(LENGTH_BYTES)
            text = stream.read(header_bytes)
    except OSError as error:
        raise explained(error) or UserError(
            f"{path.name} cannot be read: {error.strerror or error}"
        ) from None
    entries = _entries(path, text)
    data_start = LENGTH_BYTES + header_bytes
    tensors = [_tensor(path, name, entry, data_start) for name, entry in entries.items()]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.size_bytes))
    _check_layout(path, tensors, data_start, size_bytes)
    return tuple(tensors)


def _header_length(path: Path, start: bytes, size_bytes: int, more: bytes) -> int:
    if size_bytes == 0:
        raise UserError(f"{path.name} is empty", _FETCH_AGAIN)
    if (start + more).startswith(_LFS_MARK):
        raise UserError(f"{path.name} is a Git LFS pointer, not the weights", "run `git lfs pull`")
    if len(start) < LENGTH_BYTES:
        raise UserError(f"{path.name} is no safetensors file: {size_bytes} bytes", _FETCH_AGAIN)
    length: int = struct.unpack("<Q", start)[0]
    if length > MAX_HEADER_BYTES:
        raise UserError(
            f"{path.name} is no safetensors file: it claims a header of {length} bytes "
            f"(at most {MAX_HEADER_BYTES})",
            _FETCH_AGAIN,
        )
    if LENGTH_BYTES + length > size_bytes:
        raise UserError(
            f"{path.name} is a truncated shard: it ends inside its header, "
            f"{size_bytes} of at least {LENGTH_BYTES + length} bytes",
            _FETCH_AGAIN,
        )
    return length


def _entries(path: Path, text: bytes) -> dict[str, Any]:
    try:
        entries = json.loads(text.decode("utf-8"), object_pairs_hook=_no_duplicates)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path.name} is no safetensors file: header: {error}", _FETCH_AGAIN
        ) from None
    if not isinstance(entries, dict):
        raise UserError(f"{path.name} is no safetensors file: header is no object", _FETCH_AGAIN)
    entries.pop("__metadata__", None)
    return entries


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _tensor(path: Path, name: str, entry: Any, data_start: int) -> TensorHeader:
    where = f"{path.name}: tensor {name}"
    fields = entry if isinstance(entry, dict) else {}
    dtype = fields.get("dtype")
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise UserError(f"{where} has the unknown type {dtype!r}")
    shape, span = _whole_numbers(fields.get("shape")), _whole_numbers(fields.get("data_offsets"))
    if shape is None or span is None or len(span) != 2:
        raise UserError(f"{where} has a broken header: {str(entry)[:200]}", _FETCH_AGAIN)
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    begin, end = span
    if end < begin or (end - begin) * 8 != bits:
        takes = f"{bits // 8} bytes" if bits < _NUMBERS_END else "more than a file can hold"
        raise UserError(
            f"{where} of type {dtype} and shape {str(list(shape))[:200]} takes {takes}, "
            f"its header gives it {end - begin}",
            _FETCH_AGAIN,
        )
    return TensorHeader(name, dtype, shape, path, data_start + begin, end - begin)


def _whole_numbers(value: Any) -> tuple[int, ...] | None:
    """The list as a tuple when it holds only whole numbers from 0 on, as long as the format's."""
    if isinstance(value, list) and all(type(n) is int and 0 <= n < _NUMBERS_END for n in value):
        return tuple(value)
    return None


def _check_layout(
    path: Path, tensors: list[TensorHeader], data_start: int, size_bytes: int
) -> None:
    position = data_start
    for tensor in tensors:
        if tensor.offset != position:
            kind = "overlaps another" if tensor.offset < position else "follows a gap"
            raise UserError(f"{path.name}: tensor {tensor.name} {kind} in the file", _FETCH_AGAIN)
        position += tensor.size_bytes
    if size_bytes < position:
        raise UserError(
            f"{path.name} is a truncated shard: {size_bytes} of {position} bytes", _FETCH_AGAIN
        )
    if size_bytes > position:
        raise UserError(
            f"{path.name} has {size_bytes - position} bytes after its last tensor", _FETCH_AGAIN
        )
