"""A JSON array read in pieces: the same values as `json.load`, and the line of every fault."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import UserError
from toolchain.data.prepare import array_stream
from toolchain.data.prepare.array_stream import array_rows

VALUES = [
    {"q": 'a\n"b" ]}', "n": 12345},
    [],
    3.5,
    -17,
    True,
    None,
    {"zh": "灯😀", "x": [{}]},
    "end",
]


@pytest.mark.parametrize("block", [1, 2, 7, 1 << 20])
@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("ascii_only", [True, False])
def test_values_are_those_of_json_whatever_the_blocks(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    block: int,
    indent: int | None,
    ascii_only: bool,
) -> None:
    monkeypatch.setattr(array_stream, "_BLOCK_CHARS", block)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(VALUES, indent=indent, ensure_ascii=ascii_only), encoding="utf-8")
    assert [value for _, value in array_rows(path)] == VALUES


def test_lines_are_those_where_rows_begin(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text('\ufeff\n[\n {"a": 1},\n\n {"a":\n 2}, 3\n]\n', encoding="utf-8")
    assert list(array_rows(path)) == [(3, {"a": 1}), (5, {"a": 2}), (6, 3)]


def test_an_empty_array_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text("[ ]\n", encoding="utf-8")
    assert list(array_rows(path)) == []


@pytest.mark.parametrize("block", [3, 1 << 20])
@pytest.mark.parametrize(
    ("text", "line"),
    [
        ('[\n{"a": 1},\n{"a" 2}\n]', 3),
        ('[\n{"a": 1}\n{"a": 2}\n]', 3),
        ('[\n{"a": 1},\n', 3),
        ('[\n{"a": 1},\n{"a": "never closed\n', 3),
        ('[{"a": 1}]\n\nmore', 3),
        ('[\n{"a": nul}\n]', 2),
    ],
)
def test_broken_json_names_its_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, line: int, block: int
) -> None:
    monkeypatch.setattr(array_stream, "_BLOCK_CHARS", block)
    path = tmp_path / "a.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError, match=f"a.json line {line} is broken JSON"):
        list(array_rows(path))


def test_a_fault_is_found_without_reading_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(array_stream, "_BLOCK_CHARS", 64)
    path = tmp_path / "a.json"
    path.write_text('[{"a": 1 "b": 2},' + " " * 1_000_000 + "]", encoding="utf-8")
    with path.open(encoding="utf-8") as stream:
        rows = array_stream._Array(path, stream)
        with pytest.raises(UserError, match="line 1"):
            list(rows.rows())
        assert len(rows.text) < 1000
