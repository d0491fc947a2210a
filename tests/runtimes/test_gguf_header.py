"""The strict reading of a GGUF header: what it gives, and what it refuses that gguf takes."""

from __future__ import annotations

import struct
from pathlib import Path

import gguf
import numpy as np
import pytest
from tiny_gguf import tiny_gguf

from common.errors import UserError
from runtimes.gguf_header import read_header


@pytest.fixture
def file(tmp_path: Path) -> Path:
    sizes = {"hidden": 32, "ffn": 32, "heads": 2, "kv_heads": 1, "layers": 1}
    return tiny_gguf(tmp_path / "model.gguf", **sizes, byte_tokens=True)


def test_it_reads_what_gguf_reads(file: Path) -> None:
    header, theirs = read_header(file), gguf.GGUFReader(file)
    fields = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert header.metadata == fields
    assert [(t.name, t.type, t.size_bytes, t.offset) for t in header.tensors] == [
        (t.name, t.tensor_type.name, t.n_bytes, t.data_offset) for t in theirs.tensors
    ]
    assert all(
        tensor.shape == tuple(int(n) for n in reversed(one.shape))
        for tensor, one in zip(header.tensors, theirs.tensors, strict=True)
    )


def test_every_kind_of_value_is_read(tmp_path: Path) -> None:
    writer = gguf.GGUFWriter(tmp_path / "a.gguf", "llama")
    values = {"bool": True, "i8": -3, "u64": 1 << 40, "f64": 0.1, "text": "naïve", "list": [1, 2]}
    writer.add_bool("bool", True)
    writer.add_int8("i8", -3)
    writer.add_uint64("u64", 1 << 40)
    writer.add_float64("f64", 0.1)
    writer.add_string("text", "naïve")
    writer.add_array("list", [1, 2])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found = read_header(tmp_path / "a.gguf").metadata
    assert {name: found[name] for name in values} == values


def patched(file: Path, offset: int, form: str, value: int) -> Path:
    data = bytearray(file.read_bytes())
    struct.pack_into(form, data, offset, value)
    file.write_bytes(data)
    return file


@pytest.mark.parametrize(
    ("offset", "form", "value", "reason"),
    [
        (0, "<I", 0, "is no GGUF file"),
        (4, "<I", 1, "version 1 is not known"),
        (8, "<Q", (1 << 64) - 1, "cut short"),
        (16, "<Q", (1 << 63) - 1, "damaged or truncated"),
        (24, "<Q", 1 << 62, "cut short"),
    ],
    ids=["magic", "version", "tensors", "pairs", "key length"],
)
def test_lengths_are_held_against_the_file(
    file: Path, offset: int, form: str, value: int, reason: str
) -> None:
    with pytest.raises(UserError, match=reason) as refused:
        read_header(patched(file, offset, form, value))
    assert str(file) in str(refused.value)


def tensor_offset(file: Path, name: str) -> int:
    """Where the header says at which place of the data the tensor begins."""
    field = next(t.field for t in gguf.GGUFReader(file).tensors if t.name == name)
    before = sum(int(part.nbytes) for part in field.parts[:-1])
    return int(field.offset + before)


@pytest.mark.parametrize(("change", "reason"), [(-32, "overlaps another"), (32, "follows a gap")])
def test_tensors_lie_one_after_another(file: Path, change: int, reason: str) -> None:
    place = tensor_offset(file, "blk.0.ffn_norm.weight")
    value = struct.unpack_from("<Q", file.read_bytes(), place)[0]
    with pytest.raises(UserError, match=reason):
        read_header(patched(file, place, "<Q", value + change))


def test_the_file_ends_where_its_last_tensor_does(file: Path) -> None:
    whole = file.read_bytes()
    file.write_bytes(whole + bytes(64))
    with pytest.raises(UserError, match="64 bytes follow its last tensor"):
        read_header(file)
    file.write_bytes(whole[:-64])
    with pytest.raises(UserError, match="ends inside the tensor"):
        read_header(file)


def test_names_are_there_once(tmp_path: Path) -> None:
    file = tmp_path / "a.gguf"
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_tensor("aaa", np.ones(8, np.float32))
    writer.add_tensor("bbb", np.ones(8, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    assert [tensor.name for tensor in read_header(file).tensors] == ["aaa", "bbb"]
    file.write_bytes(file.read_bytes().replace(b"bbb", b"aaa"))
    with pytest.raises(UserError, match="'aaa' occurs twice"):
        read_header(file)
