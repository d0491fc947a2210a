"""`sparsity.json` in a checkpoint's folder: which tensors hold zeros that later stages keep.

The zeros themselves are the mask, so nothing else is stored:

    record = read_record(base); keep_zeros(base, merged)
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

from common.errors import UserError
from common.files import read_object, write_json
from toolchain.checkpoint.info import TensorHeader
from toolchain.checkpoint.inspect import inspect

RECORD = "sparsity.json"
_BLOCK_ITEMS = 1 << 20
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}


@dataclass(frozen=True)
class Sparsity:
    """`tensors` are the names of the tensors with zeros; `pattern` is N:M or None."""

    tensors: tuple[str, ...]
    keep_masks: bool
    pattern: str | None


def write_record(folder: Path, record: Sparsity) -> None:
    """Write it into a checkpoint's folder."""
    write_json(folder / RECORD, asdict(record))


def read_record(folder: Path) -> Sparsity | None:
    """The folder's record; None without one. `UserError` when it is broken."""
    path = folder / RECORD
    if not path.is_file():
        return None
    data = read_object(path)
    names, keep, pattern = (data.get(k) for k in ("tensors", "keep_masks", "pattern"))
    if (
        not isinstance(names, list)
        or not all(isinstance(name, str) for name in names)
        or not isinstance(keep, bool)
        or not isinstance(pattern, str | None)
    ):
        raise UserError(f"{path} is damaged", "restore it, or remove it to let the zeros go")
    return Sparsity(tuple(names), keep, pattern)


def kept_tensors(base: Path) -> frozenset[str]:
    """Names of the base's tensors whose zeros a later stage keeps; empty where none are kept."""
    record = read_record(base)
    return frozenset(record.tensors) if record is not None and record.keep_masks else frozenset()


def keep_zeros(base: Path, result: Path) -> int:
    """Zero in the result what is zero in the base, in the recorded tensors, in place; how many
    values that changed. The two may store other types of numbers."""
    names = kept_tensors(base)
    if not names:
        return 0
    own = {tensor.name: tensor for tensor in inspect(result).tensors}
    changed, found = 0, []
    for tensor in (one for one in inspect(base).tensors if one.name in names):
        made = own.get(_name_in(own, tensor.name))
        if made is None or made.shape != tensor.shape:
            raise UserError(
                f"{tensor.name} has zeros to keep and is not in {result.name} in its shape",
                f"remove {RECORD} from the base to let them go",
            )
        found.append(made.name)
        with tensor.file.open("rb") as source, made.file.open("r+b") as out:
            changed += _keep(source, tensor, out, made)
    record = read_record(base)
    assert record is not None  # it named the tensors
    write_record(result, replace(record, tensors=tuple(found)))
    return changed


def _name_in(own: Collection[str], name: str) -> str:
    """The tensor's name in a network that may have it under another prefix (a head was put on)."""
    if name in own:
        return name
    near = [one for one in own if one.endswith(f".{name}") or name.endswith(f".{one}")]
    return near[0] if len(near) == 1 else name


def read_names(folder: Path) -> tuple[str, ...]:
    """The recorded tensors' names, kept or not; none without a record."""
    record = read_record(folder)
    return record.tensors if record is not None else ()


def zeros_of(folder: Path, names: frozenset[str]) -> tuple[int, int]:
    """Zeros and values of the named tensors."""
    zeros = total = 0
    for tensor in inspect(folder).tensors:
        if tensor.name in names:
            with tensor.file.open("rb") as stream:
                for start in range(0, tensor.elements, _BLOCK_ITEMS):
                    zeros += int((_magnitudes(stream, tensor, start) == 0).sum())
            total += tensor.elements
    return zeros, total


def _keep(source: IO[bytes], base: TensorHeader, out: IO[bytes], made: TensorHeader) -> int:
    changed = 0
    for start in range(0, base.elements, _BLOCK_ITEMS):
        values = _magnitudes(out, made, start)
        lost = (_magnitudes(source, base, start) == 0) & (values != 0)
        if lost.any():
            block = _read(out, made, start)
            block[lost] = 0
            out.seek(made.offset + start * block.itemsize)
            out.write(block.tobytes())
            changed += int(lost.sum())
    return changed


def _magnitudes(stream: IO[bytes], tensor: TensorHeader, start: int) -> Any:
    """Bits without the sign: zero for both zeros."""
    bits = _read(stream, tensor, start)
    return bits << bits.dtype.type(1)


def _read(stream: IO[bytes], tensor: TensorHeader, start: int) -> Any:
    """Up to `_BLOCK_ITEMS` values from the index `start` on, as unsigned integers."""
    import numpy as np

    kind = np.dtype(f"<u{_BYTES[tensor.dtype]}")
    count = min(_BLOCK_ITEMS, tensor.elements - start)
    stream.seek(tensor.offset + start * kind.itemsize)
    return np.frombuffer(stream.read(count * kind.itemsize), kind).copy()
