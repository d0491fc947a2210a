"""Seeded damage to GGUF files: raw, or of one field whose place is known."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from fuzz_mutators import U32, U64, damaged

_SIZES = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}


@dataclass(frozen=True)
class Field:
    """A field of the header: what it is, where it begins and how long it is."""

    kind: str
    start: int
    size: int


def fields(data: bytes) -> list[Field]:
    """Every length, count, type, size, offset and value in a good file's header."""
    return list(_Walk(data).header())


def lying_file(random: Random, data: bytes, known: list[Field]) -> bytes:
    """One case whose structure stays whole: values, texts and items say something else."""
    result = bytearray(data)
    for _ in range(random.choice((1, 1, 2, 3))):
        field = random.choice([one for one in known if one.kind in ("value", "items", "text")])
        old = bytes(result[field.start : field.start + field.size])
        if field.kind == "items" and random.random() < 0.5:
            place = random.randrange(0, max(1, field.size // 4)) * 4
            extreme = struct.pack("<I", random.choice(U32))
            new = old[:place] + extreme[: field.size - place] + old[place + 4 :]
        else:
            new = _changed(random, field, old, known)
        result[field.start : field.start + field.size] = new
    return bytes(result)


def damaged_file(random: Random, data: bytes, known: list[Field]) -> bytes:
    """One case. Half of them change a field of one kind, chosen evenly among the kinds."""
    end = max(field.start + field.size for field in known)
    if random.random() < 0.4:
        return damaged(random, data, head=end)
    result = bytearray(data)
    for _ in range(random.choice((1, 1, 2))):
        kind = random.choice(sorted({field.kind for field in known}))
        field = random.choice([one for one in known if one.kind == kind])
        new = _changed(random, field, bytes(result[field.start : field.start + field.size]), known)
        result[field.start : field.start + field.size] = new
    return bytes(result)


def _changed(random: Random, field: Field, old: bytes, known: list[Field]) -> bytes:
    if field.kind == "text":
        choices = (b"\xff" * len(old), b"\0" * len(old), old[::-1], old[:-1] + b"x", old.upper())
        return random.choice((*choices, random.randbytes(len(old))))
    if field.size not in (4, 8):
        return random.randbytes(field.size)
    form, extremes = ("<I", U32) if field.size == 4 else ("<Q", U64)
    most = (1 << 8 * field.size) - 1
    value = struct.unpack(form, old)[0]
    near = (value + 1, value - 1, value * 2, value // 2, value + 32, value ^ (1 << 40), value << 8)
    small = tuple(range(12))
    return struct.pack(form, random.choice((*extremes, *near, *small)) & most)


class _Walk:
    def __init__(self, data: bytes) -> None:
        self._data, self._at = data, 8

    def header(self) -> Iterator[Field]:
        yield Field("version", 4, 4)
        tensors, pairs = self._number(8), self._number(8)
        yield from (Field("count", 8, 8), Field("count", 16, 8))
        for _ in range(pairs):
            yield from self._string("key length")
            yield self._field("value type", 4)
            yield from self._value(struct.unpack("<I", self._data[self._at - 4 : self._at])[0])
        for _ in range(tensors):
            yield from self._string("name length")
            dimensions = self._number(4)
            yield Field("dimensions", self._at - 4, 4)
            for _ in range(dimensions):
                yield self._field("size", 8)
            yield self._field("tensor type", 4)
            yield self._field("offset", 8)

    def _value(self, kind: int) -> Iterator[Field]:
        if kind == 8:
            yield from self._string("string length")
        elif kind == 9:
            inner = self._number(4)
            yield Field("inner type", self._at - 4, 4)
            count = self._number(8)
            yield Field("array length", self._at - 8, 8)
            if inner == 8:
                for _ in range(count):
                    yield from self._string("item length")
            else:
                yield self._field("items", count * _SIZES[inner])
        else:
            yield self._field("value", _SIZES[kind])

    def _string(self, kind: str) -> Iterator[Field]:
        length = self._number(8)
        yield Field(kind, self._at - 8, 8)
        if length:
            yield self._field("text", length)

    def _field(self, kind: str, size: int) -> Field:
        self._at += size
        return Field(kind, self._at - size, size)

    def _number(self, size: int) -> int:
        self._at += size
        return int.from_bytes(self._data[self._at - size : self._at], "little")
