"""The codes inside ggml's blocks: whole numbers that a block's scale turns into weights.

    base, step = grid(blocks, "Q4_0")              # weight = base + step * levels[code]
    blocks = with_codes(blocks, "Q4_0", codes)     # scales stay, codes change

Whoever chooses codes by another rule than the nearest value keeps the scales that ggml's own search
found and puts the codes in. Where a code's bits lie is that of ggml-common.h and ggml-quants.c.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from runtimes.ggml_blocks import columns_of, dequantize_rows

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Blocks whose bits are unpacked at a time: each bit takes a byte meanwhile.
_CHUNK_BLOCKS = 1 << 14
_BITS = {
    **{"Q4_0": 4, "Q4_1": 4, "Q5_0": 5, "Q5_1": 5, "Q8_0": 8},
    **{"Q4_K": 4, "Q5_K": 5, "Q6_K": 6, "IQ4_NL": 4, "IQ4_XS": 4},
}
# Codes that are no whole steps: `kvalues_iq4nl` of ggml-common.h.
_UNEVEN = (-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113)
_ONE = _UNEVEN.index(1)
CODED = frozenset(_BITS)
"""Types whose codes are known here."""
SCALED = frozenset({"Q4_0", "Q5_0", "Q8_0", "IQ4_NL"})
"""Types whose blocks have one scale, which comes first, and no offset of their own."""


def code_count(type_name: str) -> int:
    """How many codes a weight of the type has; they are 0 to one less."""
    return 1 << _BITS[type_name]


def levels(type_name: str) -> NDArray[np.float32]:
    """What each code counts, in steps of its block, ascending: 0, 1, 2, … where steps are even."""
    import numpy as np

    return np.array(_UNEVEN if _is_uneven(type_name) else range(code_count(type_name)), np.float32)


def codes_of(blocks: NDArray[np.uint8], type_name: str) -> NDArray[np.uint8]:
    """The codes [rows, columns] of blocks [rows, bytes of a row]."""
    import numpy as np

    def read(part: NDArray[np.uint8]) -> NDArray[np.uint8]:
        bits = np.unpackbits(part, axis=1, bitorder="little")
        found = np.zeros((len(part), len(_places(type_name))), np.uint8)
        for number, places in enumerate(_places(type_name).T):
            found |= bits[:, places] << np.uint8(number)
        return found ^ _flip(type_name)

    return _by_chunks(blocks, type_name, read)


def with_codes(
    blocks: NDArray[np.uint8], type_name: str, codes: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """The blocks [rows, bytes of a row] with other codes [rows, columns] and their own scales."""
    import numpy as np

    own = codes.reshape(-1, len(_places(type_name))) ^ _flip(type_name)
    start = 0

    def write(part: NDArray[np.uint8]) -> NDArray[np.uint8]:
        nonlocal start
        new = own[start : start + len(part)]
        start += len(part)
        bits = np.unpackbits(part, axis=1, bitorder="little")
        for number, places in enumerate(_places(type_name).T):
            bits[:, places] = new >> np.uint8(number) & np.uint8(1)
        return np.packbits(bits, axis=1, bitorder="little")

    return _by_chunks(blocks, type_name, write)


def scales_of(blocks: NDArray[np.uint8], type_name: str) -> NDArray[np.float32]:
    """The scales [rows, blocks of a row] of a type of `SCALED`."""
    import numpy as np

    return _single(blocks, type_name)[:, :, :2].copy().view(np.float16)[:, :, 0].astype(np.float32)


def with_scales(
    blocks: NDArray[np.uint8], type_name: str, scales: NDArray[np.float32]
) -> NDArray[np.uint8]:
    """The blocks [rows, bytes of a row] of a type of `SCALED` with other scales [rows, blocks of a
    row], which are rounded to float16, and their own codes."""
    import numpy as np

    new = _single(blocks, type_name).copy()
    new[:, :, :2] = scales.astype(np.float16)[:, :, None].view(np.uint8)
    return new.reshape(blocks.shape)


def grid(
    blocks: NDArray[np.uint8], type_name: str
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Of each weight the value at level 0, and what a level more adds, both [rows, columns]."""
    import numpy as np

    columns = columns_of(type_name, blocks.shape[1])

    def all_at(code: int) -> NDArray[np.float32]:
        codes = np.full((len(blocks), columns), code, np.uint8)
        return dequantize_rows(with_codes(blocks, type_name, codes), type_name, columns)

    if _is_uneven(type_name):  # no offset, and one of the levels is 1
        step = all_at(_ONE)
        return np.zeros_like(step), step
    highest = code_count(type_name) - 1
    lowest = all_at(0)
    return lowest, (all_at(highest) - lowest) / np.float32(highest)


def _is_uneven(type_name: str) -> bool:
    return type_name.startswith("IQ4")


def _by_chunks(
    blocks: NDArray[np.uint8],
    type_name: str,
    work: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
) -> NDArray[np.uint8]:
    import numpy as np

    single = _single(blocks, type_name)
    single = single.reshape(-1, single.shape[-1])
    made = [
        work(single[start : start + _CHUNK_BLOCKS])
        for start in range(0, len(single), _CHUNK_BLOCKS)
    ]
    return np.concatenate(made).reshape(len(blocks), -1)


def _single(blocks: NDArray[np.uint8], type_name: str) -> NDArray[np.uint8]:
    """As [rows, blocks of a row, bytes of a block]."""
    import gguf
    import numpy as np

    size = int(gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[type_name]][1])
    return np.ascontiguousarray(blocks).reshape(len(blocks), -1, size)


def _flip(type_name: str) -> NDArray[np.uint8]:
    """Q8_0 keeps signed bytes: with the highest bit turned they count up from 0."""
    import numpy as np

    return np.uint8(0x80 if type_name == "Q8_0" else 0)  # type: ignore[return-value]


@functools.cache
def _places(type_name: str) -> NDArray[np.int64]:
    """Where in a block the bits of each weight's code lie, the lowest first: [weights, bits]."""
    import numpy as np

    def bits(byte: NDArray[np.int64], shift: NDArray[np.int64], count: int) -> NDArray[np.int64]:
        found: NDArray[np.int64] = (8 * byte + shift)[:, None] + np.arange(count)
        return found

    n = np.arange(256 if type_name.endswith("_K") or type_name == "IQ4_XS" else 32)
    if type_name == "Q8_0":
        return bits(2 + n, 0 * n, 8)
    if type_name == "Q6_K":
        half, rest = n // 128, n % 128
        low = bits(64 * half + rest % 64, rest // 64 * 4, 4)
        return np.hstack([low, bits(128 + 32 * half + rest % 32, rest // 32 * 2, 2)])
    if type_name.endswith("_K"):
        start = {"Q4_K": 16, "Q5_K": 48}[type_name]
        low = bits(start + n // 64 * 32 + n % 32, n % 64 // 32 * 4, 4)
        return low if type_name == "Q4_K" else np.hstack([low, bits(16 + n % 32, n // 32, 1)])
    if type_name == "IQ4_XS":
        return bits(8 + n // 32 * 16 + n % 16, n % 32 // 16 * 4, 4)
    header = {"Q4_0": 2, "Q4_1": 4, "Q5_0": 2, "Q5_1": 4, "IQ4_NL": 2}[type_name]
    fifth = type_name.startswith("Q5")
    low = bits(header + 4 * fifth + n % 16, n // 16 * 4, 4)
    return np.hstack([low, bits(header + n // 8, n % 8, 1)]) if fifth else low
