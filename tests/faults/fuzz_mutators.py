"""Seeded damage to files: bytes, JSON, safetensors, GGUF. The same `Random` gives the same case."""

from __future__ import annotations

import copy
import json
import struct
from collections.abc import Callable
from random import Random
from typing import Any

U32 = (0, 1, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
U64 = (0, 1, (1 << 31) - 1, 1 << 32, (1 << 62) + 1, (1 << 63) - 1, 1 << 63, (1 << 64) - 1)
_MOST_BYTES = 4096

Damage = Callable[[Random, bytearray, int], None]


def damaged(random: Random, data: bytes, head: int | None = None) -> bytes:
    """The bytes with one to three faults; `head`: how many bytes from the start are structure,
    which three of four faults hit."""
    result = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        if not result:
            break
        whole = head is None or random.random() < 0.25
        reach = len(result) if whole else min(head or 0, len(result))
        random.choice(_DAMAGE)(random, result, max(1, reach))
    return bytes(result)


def _flip(random: Random, data: bytearray, reach: int) -> None:
    data[random.randrange(reach)] ^= 1 << random.randrange(8)


def _overwrite(random: Random, data: bytearray, reach: int) -> None:
    start, length = random.randrange(reach), random.choice((1, 2, 4, 8, 64))
    fill = random.choice((b"\0", b"\xff", b"A", b'"', b"{"))
    new = random.randbytes(length) if random.random() < 0.5 else fill * length
    data[start : start + length] = new[: len(data) - start]


def _truncate(random: Random, data: bytearray, reach: int) -> None:
    del data[random.choice((random.randrange(reach), random.randrange(len(data)))) :]


def _extend(random: Random, data: bytearray, reach: int) -> None:
    length = random.choice((1, 7, 32, 512, _MOST_BYTES))
    data += random.choice((bytes(length), random.randbytes(length), bytes(data[:length])))


def _cut(random: Random, data: bytearray, reach: int) -> None:
    start = random.randrange(reach)
    del data[start : start + random.choice((1, 4, 8, 100))]


def _insert(random: Random, data: bytearray, reach: int) -> None:
    start, source = random.randrange(reach), random.randrange(len(data))
    data[start:start] = data[source : source + random.choice((1, 4, 8, 100))]


def _splice(random: Random, data: bytearray, reach: int) -> None:
    start, source = random.randrange(reach), random.randrange(len(data))
    piece = bytes(data[source : source + random.choice((4, 16, 256))])
    data[start : start + len(piece)] = piece[: len(data) - start]


def _length(random: Random, data: bytearray, reach: int) -> None:
    """A number at an extreme, where a length or an offset may stand."""
    form, values = random.choice((("<I", U32), ("<Q", U64), (">I", U32)))
    new = struct.pack(form, random.choice(values))
    start = random.randrange(reach)
    data[start : start + len(new)] = new[: len(data) - start]


_DAMAGE: tuple[Damage, ...] = (
    _flip, _flip, _overwrite, _truncate, _extend, _cut, _insert, _splice, _length, _length,
)  # fmt: skip

# What JSON cannot say by itself stands in the text for a moment under these names.
_LITERALS = {
    "\ue000": "9" * 5000,
    "\ue001": "1e999",
    "\ue002": "NaN",
    "\ue003": "-Infinity",
    "\ue004": "[" * 100_000 + "]" * 100_000,
    "\ue005": '{"a":' * 20_000 + "1" + "}" * 20_000,
    "\ue006": '"\\ud800"',
    "\ue007": '"\\u0000"',
    "\ue008": "1" + "0" * 400,
}
_VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 3, 0.5, -0.0, 2**31, 2**32, -(2**63), 2**63, 2**64, 1e308, "", "x",
    "\0", "../../../../../../tmp/edgeforge-outside", "/tmp/edgeforge-outside", "a" * 10_000,
    "\u202e\u200b\x1b[31m", "<script>", "{{ 7 * 7 }}", "$(touch /tmp/edgeforge-outside)",
    [], {}, [None], [[]], {"": None}, [0] * 1000, *_LITERALS,
)  # fmt: skip


def damaged_json(random: Random, value: Any) -> bytes:
    """The value's JSON with one to three faults of structure, now and then of the text as well."""
    value = copy.deepcopy(value)
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        value = _changed(random, value)
    text = json.dumps(value, ensure_ascii=False)
    for mark, literal in _LITERALS.items():
        text = text.replace(json.dumps(mark, ensure_ascii=False), literal)
    data = text.encode("utf-8", "surrogatepass")
    kind = random.random()
    if kind < 0.05:
        return _twice(random, value, data)
    if kind < 0.08:
        return data[: random.randrange(len(data) + 1)] + b"\xff\xfe" + data[len(data) // 2 :]
    if kind < 0.15:
        return damaged(random, data)
    return data


def _twice(random: Random, value: Any, data: bytes) -> bytes:
    """An object whose first key is there a second time, with another value."""
    if not isinstance(value, dict) or not value:
        return b"\xef\xbb\xbf" + data
    key = random.choice(list(value))
    other = json.dumps(random.choice((None, 1, "x", [], {}))).encode()
    return b"{" + json.dumps(str(key)).encode() + b":" + other + b"," + data.lstrip()[1:]


def _changed(random: Random, value: Any) -> Any:
    """One node changed, as likely near the top as deep down."""
    if not isinstance(value, dict | list) or not value or random.random() < 0.15:
        return _other(random, value)
    keys: list[Any] = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = random.choice(keys)
    if random.random() < 0.55:
        value[key] = _changed(random, value[key])
        return value
    match random.randrange(5):
        case 0:
            del value[key]
        case 1 if isinstance(value, dict):
            name = random.choice((key[:-1], f"{key}x", key.upper(), "", "\ud800", "a" * 300))
            value[name] = value.pop(key)
        case 2:
            value[key] = value[random.choice(keys)]
        case _:
            value[key] = _other(random, value[key])
    return value


def _other(random: Random, value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or random.random() < 0.5:
        return copy.deepcopy(random.choice(_VALUES))
    return random.choice(
        (value + 1, value - 1, -value, value * 2, value * 1e9, str(value), [value])
    )
