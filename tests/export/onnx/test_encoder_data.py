"""Texts and labels for encoders: labels by name or number, every fault named with its row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tiny_encoders import write_rows

from common.errors import UserError
from runtimes.ort_encoder import EncoderFacts
from toolchain.export.onnx.encoder_data import Examples, read_examples

CLASSIFY = EncoderFacts(
    "sequence-classification", ("negative", "positive"), 2, None, False, 8, (), 0, None, "fp32"
)
TAG = EncoderFacts("token-classification", ("O", "B-X"), 2, None, False, 8, (), 0, None, "fp32")


def read(folder: Path, rows: list[Any], facts: EncoderFacts = CLASSIFY, **more: Any) -> Examples:
    return read_examples(write_rows(folder / "rows.jsonl", rows), facts, purpose="a test", **more)


def test_labels_by_name_number_and_name_beside_the_number(tmp_path: Path) -> None:
    rows = [
        {"text": "a", "label": "positive"},
        {"text": "b", "label": 0},
        {"text": "c", "label": "1"},
        {"text": "d", "text_pair": "e", "label": 0, "label_name": "positive"},
    ]
    found = read(tmp_path, rows)
    assert found.labels == (1, 0, 1, 1)
    assert found.texts == ("a", "b", "c", ("d", "e")) and len(found) == 4
    assert read(tmp_path, [*rows, {"text": "f"}]).labels is None


def test_words_with_labels(tmp_path: Path) -> None:
    found = read(tmp_path, [{"tokens": ["a", "b"], "labels": ["O", "B-X"]}], TAG)
    assert found.words == (("a", "b"),) and found.labels == ((0, 1),)


@pytest.mark.parametrize(
    ("rows", "facts", "more", "problem"),
    [
        ([{"text": "a", "label": "neutral"}], CLASSIFY, {}, "row 1: the model has no label"),
        ([{"text": "a", "label": 2}], CLASSIFY, {}, "no label 2"),
        ([{"text": "a"}], CLASSIFY, {"labelled": True}, "row 1 has no 'label'"),
        ([{"text": "a"}], TAG, {}, "needs the column 'tokens'; found: text"),
        ([{"tokens": "a b"}], TAG, {}, "must be a list of words"),
        ([{"tokens": ["a"], "labels": ["O", "O"]}], TAG, {}, "1 tokens but 2 labels"),
        ([["a"]], CLASSIFY, {}, "line 1 is no row"),
        ([], CLASSIFY, {}, "is empty"),
        ([{"text": "a"}], CLASSIFY, {"least": 2}, "has 1 rows, too few for a test"),
    ],
)
def test_faults(
    rows: list[Any], facts: EncoderFacts, more: dict[str, Any], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=problem):
        read(tmp_path, rows, facts, **more)


def test_no_json(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("text,label\na,b\n")
    with pytest.raises(UserError, match="cannot be read as JSON lines"):
        read_examples(tmp_path / "rows.csv", CLASSIFY, purpose="a test")
