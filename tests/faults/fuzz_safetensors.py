"""Seeded damage to safetensors files, and an independent reading of what is left of one."""

from __future__ import annotations

import json
import math
import struct
from random import Random
from typing import Any

from fuzz_mutators import U64, damaged, damaged_json

_BITS = {"F64": 64, "F32": 32, "F16": 16, "BF16": 16, "I32": 32, "U32": 32, "U8": 8, "I8": 8}


def split(data: bytes) -> tuple[dict[str, Any], bytes]:
    """A good file's header and its tensors' bytes."""
    length = struct.unpack("<Q", data[:8])[0]
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def damaged_file(random: Random, data: bytes) -> bytes:
    """One case: raw damage, a header of another structure, or one that lies about the layout."""
    header, body = split(data)
    kind = random.random()
    if kind < 0.4:
        return damaged(random, data, head=len(data) - len(body))
    if kind < 0.6:
        text = damaged_json(random, header)
    else:
        for _ in range(random.choice((1, 1, 2))):
            if _names(header):
                random.choice(_LIES)(random, header, len(body))
        text = json.dumps(header).encode()
        if random.random() < 0.1 and _names(header):  # two entries of one name
            name = random.choice(_names(header))
            twin = json.dumps({name: header[name]})[1:-1].encode()
            text = b"{" + twin + b"," + text[1:]
    length = len(text) if random.random() < 0.95 else random.choice(U64)
    return struct.pack("<Q", length) + text + body


def _names(header: dict[str, Any]) -> list[str]:
    return [name for name in header if name != "__metadata__"]


def _entry(random: Random, header: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = header[random.choice(_names(header))]
    return found


def _shift(random: Random, header: dict[str, Any], size: int) -> None:
    entry = _entry(random, header)
    by = random.choice((-4, 4, 1, -1, 1024, size, -size, 1 << 40))
    begin, end = entry["data_offsets"]
    entry["data_offsets"] = random.choice(([begin + by, end + by], [begin, end + by], [end, begin]))


def _reshape(random: Random, header: dict[str, Any], size: int) -> None:
    entry = _entry(random, header)
    entry["shape"] = random.choice(
        ([1 << 32, 1 << 32], [1 << 62, 4], [0], [], [-1, -4], entry["shape"][::-1],
         [*entry["shape"], 1], [math.prod(entry["shape"])], [size], [1] * 2000,
         [1 << 62] * 300, [10**4000, 1])
    )  # fmt: skip


def _retype(random: Random, header: dict[str, Any], size: int) -> None:
    _entry(random, header)["dtype"] = random.choice([*_BITS, "F4", "C64", "f32", "", "I64", "BOOL"])


def _exchange(random: Random, header: dict[str, Any], size: int) -> None:
    one, other = _entry(random, header), _entry(random, header)
    one["data_offsets"], other["data_offsets"] = other["data_offsets"], one["data_offsets"]


def _rename(random: Random, header: dict[str, Any], size: int) -> None:
    name = random.choice(_names(header))
    letter = random.randrange(max(1, len(name)))
    new = name[:letter] + chr(ord(name[letter:][:1] or "y") ^ 1) + name[letter + 1 :]
    header[random.choice((new, name + ".x", name[:-1], "", "../../x", "lm_head.weight"))] = (
        header.pop(name)
    )


def _drop(random: Random, header: dict[str, Any], size: int) -> None:
    del header[random.choice(_names(header))]


_LIES = (_shift, _shift, _reshape, _retype, _exchange, _rename, _drop)


def read_strictly(data: bytes) -> dict[str, tuple[str, tuple[int, ...], int, int]] | None:
    """Name → (type, shape, first byte, end) where the file is whole: lengths right, no name twice,
    tensors one after another from the first byte to the last; else None."""
    try:
        length = struct.unpack("<Q", data[:8])[0]
        pairs = json.loads(data[8 : 8 + length].decode(), object_pairs_hook=list)
        named = [(name, dict(fields)) for name, fields in pairs if name != "__metadata__"]
        found = {
            name: (one["dtype"], tuple(one["shape"]), *one["data_offsets"]) for name, one in named
        }
        spans = sorted((begin, end) for _, _, begin, end in found.values())
        sizes = all(
            (end - begin) * 8 == math.prod(shape) * _BITS[kind]
            for kind, shape, begin, end in found.values()
        )
        ends = [end for _, end in spans]
        joined = [begin for begin, _ in spans] == [0, *ends[:-1]]
        whole = len(data) == 8 + length + ends[-1] and len(found) == len(named)
    except (ValueError, TypeError, KeyError, IndexError, struct.error, RecursionError):
        return None
    return found if sizes and joined and whole else None
