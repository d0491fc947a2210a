"""The header reader accepts what the safetensors library accepts, and refuses all else politely."""

from __future__ import annotations

import json
import random
import struct
from pathlib import Path

import pytest
from checkpoint_files import weights, write_weights
from safetensors import SafetensorError, safe_open

from common.errors import UserError
from toolchain.checkpoint.safetensors_header import MAX_HEADER_BYTES, read_header


def raw_file(path: Path, header: object, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


def entry(dtype: str, shape: list, begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


def test_headers_are_those_of_the_library(tmp_path: Path) -> None:
    write_weights(tmp_path, weights())
    file = tmp_path / "model.safetensors"
    content = file.read_bytes()
    headers = {tensor.name: tensor for tensor in read_header(file)}
    with safe_open(file, framework="np") as opened:
        assert set(headers) == set(opened.keys())
        for name, header in headers.items():
            assert header.dtype == "F32"
            array = opened.get_tensor(name)
            assert header.shape == array.shape
            assert header.elements == array.size
            assert content[header.offset : header.offset + header.size_bytes] == array.tobytes()


def test_scalars_and_empty_tensors_and_sub_byte_types(tmp_path: Path) -> None:
    header = {
        "scalar": entry("F32", [], 0, 4),
        "empty": entry("F32", [0, 3], 4, 4),
        "four": entry("F4", [4, 2], 4, 8),
    }
    tensors = {t.name: t for t in read_header(raw_file(tmp_path / "a", header, bytes(8)))}
    assert [tensors[name].elements for name in ("scalar", "empty", "four")] == [1, 0, 8]


BAD = {
    "header is a list": ([1], b"", "header is no object"),
    "not json": (b"{", b"", "no safetensors file"),
    "not utf-8": (b'{"\xff": 1}', b"", "no safetensors file"),
    "a key twice": (b'{"a": 1, "a": 2}', b"", "occurs twice"),
    "nested deeply": (b"[" * 100_000, b"", "no safetensors file"),
    "sizes without end": (
        {"a": entry("F32", [1 << 62] * 300, 0, 4)}, b"1234", "more than a file can hold"),
    "a size of 4000 digits": (
        {"a": entry("F32", [10**4000], 0, 4)}, b"1234", "has a broken header"),
    "unknown type": ({"a": entry("Q4", [1], 0, 1)}, b"1", "unknown type 'Q4'"),
    "type is a list": ({"a": {**entry("F32", [1], 0, 4), "dtype": []}}, b"1234", "unknown type"),
    "entry is a number": ({"a": 3}, b"", "unknown type"),
    "negative width": ({"a": entry("F32", [-1], 0, 4)}, b"1234", "broken header"),
    "width is true": ({"a": entry("F32", [True], 0, 4)}, b"1234", "broken header"),
    "width is a fraction": ({"a": entry("F32", [1.0], 0, 4)}, b"1234", "broken header"),
    "three offsets": (
        {"a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 1]}}, b"1", "broken header",
    ),
    "size contradicts shape": ({"a": entry("F32", [2], 0, 4)}, b"1234", "takes 8 bytes"),
    "end before begin": ({"a": entry("F32", [0], 4, 0)}, b"1234", "takes 0 bytes"),
    "overlap": (
        {"a": entry("U8", [4], 0, 4), "b": entry("U8", [4], 2, 6)}, bytes(6), "overlaps",
    ),
    "gap": ({"a": entry("U8", [4], 0, 4), "b": entry("U8", [2], 6, 8)}, bytes(8), "follows a gap"),
    "truncated": ({"a": entry("U8", [9], 0, 9)}, bytes(4), "truncated shard"),
    "too long": ({"a": entry("U8", [1], 0, 1)}, bytes(4), "3 bytes after its last tensor"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_header_is_refused(case: str, tmp_path: Path) -> None:
    header, data, expected = BAD[case]
    file = raw_file(tmp_path / "bad.safetensors", header, data)
    with pytest.raises(UserError) as caught:
        read_header(file)
    assert expected in caught.value.problem
    assert "bad.safetensors" in caught.value.problem


def test_huge_header_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "huge"
    file.write_bytes(struct.pack("<Q", MAX_HEADER_BYTES + 1) + b"{}")
    with pytest.raises(UserError, match="claims a header"):
        read_header(file)


def test_damaged_bytes_never_crash_and_never_pass_what_the_library_refuses(tmp_path: Path) -> None:
    write_weights(tmp_path, weights(layers=1))
    good = (tmp_path / "model.safetensors").read_bytes()
    header_end = 8 + struct.unpack("<Q", good[:8])[0]
    rng = random.Random(7)
    file = tmp_path / "damaged"
    refused = 0
    for _ in range(600):
        content = bytearray(good)
        for _ in range(rng.choice((1, 1, 2, 8))):
            content[rng.randrange(header_end)] = rng.randrange(256)
        file.write_bytes(content)
        try:
            names = {tensor.name for tensor in read_header(file)}
        except UserError:
            refused += 1
            continue
        try:
            with safe_open(file, framework="np") as opened:
                assert names == set(opened.keys())
        except SafetensorError as error:
            pytest.fail(f"accepted what the library refuses: {error}")
    assert refused > 100
