"""The header of a GGUF file, read strictly: nothing in it is trusted before it is checked.

    header = read_header(Path("model.gguf"))
    header.metadata["general.architecture"], header.tensors[0].type

Engines end the whole process on some broken headers and take others, so each is held here against
the file that it describes: every length against what is left, every tensor against the place where
the one before it ended. Format: ggml's `docs/gguf.md`.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, NoReturn

from common.errors import UserError
from common.resources import explained

_MAGIC = b"GGUF"
_VERSIONS = (2, 3)
_SCALARS = dict(zip((0, 1, 2, 3, 4, 5, 6, 7, 10, 11, 12), "BbHhIif?Qqd", strict=True))
_STRING, _ARRAY = 8, 9
_LENGTH = struct.Struct("<Q")
_ALIGNMENT = "general.alignment"
_MOST_KEY_BYTES, _MOST_NAME_BYTES, _MOST_DIMENSIONS = 65535, 63, 4  # ggml's limits
_MOST_ELEMENTS = (1 << 63) - 1


@dataclass(frozen=True)
class TensorEntry:
    """One tensor of a file. `shape` is in PyTorch's order (rows, columns); `offset` counts bytes
    from the start of the file."""

    name: str
    shape: tuple[int, ...]
    type: str
    size_bytes: int
    offset: int = 0

    @property
    def elements(self) -> int:
        """How many weights the tensor holds."""
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufHeader:
    """What the file says of itself: its key-value pairs as Python values, its tensors in order."""

    metadata: dict[str, Any]
    tensors: tuple[TensorEntry, ...]


def read_header(path: Path) -> GgufHeader:
    """The file's header. Raises `UserError` when it is no GGUF file, damaged or cut short."""
    try:
        with path.open("rb") as stream:
            if stream.read(len(_MAGIC)) != _MAGIC:
                raise UserError(f"{path} is no GGUF file", "convert the checkpoint to GGUF first")
            return _Reader(path, stream).header()
    except OSError as error:
        told = UserError(f"{path} cannot be read: {error.strerror or error}")
        raise explained(error) or told from None


class _Reader:
    """Reads on from where the stream stands, never beyond the file's end."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self._path, self._stream = path, stream
        self._size = os.fstat(stream.fileno()).st_size
        self._left = self._size - stream.tell()

    def header(self) -> GgufHeader:
        (version,) = self._numbers("I")
        if version not in _VERSIONS:
            self._refuse(f"version {version} is not known")
        tensors, pairs = self._numbers("QQ")
        metadata = self._metadata(pairs)
        alignment = metadata.get(_ALIGNMENT, 32)
        if type(alignment) is not int or alignment < 1 or alignment & (alignment - 1):
            self._refuse(f"its alignment {alignment!r:.40} is no power of two")
        return GgufHeader(metadata, self._tensors(tensors, alignment))

    def _metadata(self, count: int) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for _ in range(count):  # each takes bytes of the file, or the file ends
            key = self._text(_MOST_KEY_BYTES, "a key")
            if key in found:
                self._refuse(f"the key {key!r:.80} occurs twice")
            (kind,) = self._numbers("I")
            found[key] = self._value(kind, key)
        return found

    def _value(self, kind: int, key: str) -> Any:
        if kind == _STRING:
            return self._string().decode("utf-8", "replace")
        if kind in _SCALARS:
            return self._numbers(_SCALARS[kind])[0]
        if kind != _ARRAY:
            self._refuse(f"{key!r:.80} is of the unknown type {kind}")
        inner, count = self._numbers("IQ")
        if inner == _STRING:
            return self._strings(count)
        if inner not in _SCALARS:
            self._refuse(f"{key!r:.80} is an array of the type {inner}")
        form = _SCALARS[inner]
        return list(struct.unpack(f"<{count}{form}", self._take(count * struct.calcsize(form))))

    def _tensors(self, count: int, alignment: int) -> tuple[TensorEntry, ...]:
        rows = self._repeat(count, self._tensor)
        start = position = _padded(self._size - self._left, alignment)
        entries: dict[str, TensorEntry] = {}
        for name, shape, kind, size, offset in rows:
            if name in entries:
                self._refuse(f"the tensor {name!r} occurs twice")
            if start + offset != position:
                how = "overlaps another" if start + offset < position else "follows a gap"
                self._refuse(f"the tensor {name!r} {how}")
            entries[name] = TensorEntry(name, shape, kind, size, position)
            if position + size > self._size:
                self._refuse(f"it ends inside the tensor {name!r}")
            position = _padded(position + size, alignment)
        if rows and self._size > position:
            self._refuse(f"{self._size - position} bytes follow its last tensor")
        return tuple(entries.values())

    def _tensor(self) -> tuple[str, tuple[int, ...], str, int, int]:
        name = self._text(_MOST_NAME_BYTES, "a tensor's name")
        (dimensions,) = self._numbers("I")
        if dimensions > _MOST_DIMENSIONS:
            self._refuse(f"the tensor {name!r} has {dimensions} dimensions")
        sizes = self._numbers("Q" * dimensions)
        number, offset = self._numbers("IQ")
        if not 0 < math.prod(sizes) <= _MOST_ELEMENTS:
            self._refuse(f"the tensor {name!r} has the sizes {list(sizes)}")
        kind, block, block_bytes = self._type(name, number)
        if (columns := sizes[0] if sizes else 1) % block:
            self._refuse(f"the tensor {name!r} has rows of {columns} in blocks of {block}")
        return name, tuple(reversed(sizes)), kind, math.prod(sizes) // block * block_bytes, offset

    def _type(self, name: str, number: int) -> tuple[str, int, int]:
        """Name of a type, weights of a block and bytes of a block."""
        import gguf

        try:
            kind = gguf.GGMLQuantizationType(number)
        except ValueError:
            self._refuse(f"the tensor {name!r} is of the unknown type {number}")
        block, block_bytes = gguf.GGML_QUANT_SIZES[kind]
        return str(kind.name), int(block), int(block_bytes)

    def _repeat(self, count: int, read: Callable[[], Any]) -> list[Any]:
        """So many values, each of which takes at least 8 bytes."""
        self._require_room(count)
        return [read() for _ in range(count)]

    def _strings(self, count: int) -> list[str]:
        """As `_repeat` of `_string`, for the hundreds of thousands that a vocabulary has."""
        self._require_room(count)
        read, length_of, left = self._stream.read, _LENGTH.unpack, self._left
        found = []
        for _ in range(count):
            start = read(_LENGTH.size)
            size = length_of(start)[0] if len(start) == _LENGTH.size else left
            left -= _LENGTH.size + size
            if left < 0:
                self._refuse(f"it is cut short: {size} bytes are announced for a string")
            found.append(read(size).decode("utf-8", "replace"))
        self._left = left
        return found

    def _require_room(self, count: int) -> None:
        if count * _LENGTH.size > self._left:
            self._refuse(f"it is cut short: {count} entries are announced, {self._left} bytes left")

    def _text(self, most_bytes: int, what: str) -> str:
        data = self._string()
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError:
            self._refuse(f"{what} is no text")
        if len(data) > most_bytes or not text.isprintable():
            self._refuse(f"{what} is {len(data)} bytes long or not printable")
        return text

    def _string(self) -> bytes:
        return self._take(self._numbers("Q")[0])

    def _numbers(self, form: str) -> tuple[Any, ...]:
        return struct.unpack("<" + form, self._take(struct.calcsize("<" + form)))

    def _take(self, count: int) -> bytes:
        if count > self._left:
            self._refuse(f"it is cut short: {count} bytes are announced, {self._left} are left")
        data = self._stream.read(count)
        if len(data) != count:
            self._refuse("it became shorter while it was read")
        self._left -= count
        return data

    def _refuse(self, reason: str) -> NoReturn:
        raise UserError(
            f"{self._path} is damaged or truncated: {reason}",
            "make the file again, or copy it again",
        )


def _padded(size: int, alignment: int) -> int:
    return -(-size // alignment) * alignment
