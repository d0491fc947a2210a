"""What of a test set an encoder's head can use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_bert

from toolchain.export.onnx.encoder_payload import _names, _texts
from toolchain.export.onnx.encoder_texts import task_rows


def rows_file(folder: Path, **row: Any) -> Path:
    path = folder / "task.jsonl"
    path.write_text((json.dumps(row) + "\n") * 4)
    return path


def with_problem(folder: Path, problem: str, labels: tuple[str, ...]) -> Path:
    """A classifier whose head is for another problem than one label of several."""
    model = tiny_bert(folder, labels=labels)
    config = json.loads((model / "config.json").read_text("utf-8"))
    config |= {"problem_type": problem, "id2label": dict(enumerate(labels))}
    (model / "config.json").write_text(json.dumps(config))
    return model


def test_one_label_of_several(tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "bert")
    rows = task_rows(rows_file(tmp_path, text="a lamp", label=1), model, 3)
    assert rows == [{"text": "a lamp", "label": "1"}] * 3
    assert _names(rows, model) == ["positive"] * 3


@pytest.mark.parametrize(
    ("problem", "labels", "label"),
    [("multi_label_classification", ("red", "warm"), [1, 0]), ("regression", ("score",), 0.5)],
)
def test_other_heads_take_the_texts_alone(
    tmp_path: Path, problem: str, labels: tuple[str, ...], label: object
) -> None:
    model = with_problem(tmp_path / "bert", problem, labels)
    rows = task_rows(rows_file(tmp_path, text="a lamp", text_pair="a fan", label=label), model)
    assert rows == [{"text": "a lamp", "text_pair": "a fan"}] * 4
    assert _names(rows, model) == [None] * 4


def test_a_taggers_words(tmp_path: Path) -> None:
    model = tiny_bert(tmp_path / "bert", task="token-classification", labels=("O", "B-X"))
    rows = task_rows(rows_file(tmp_path, tokens=["a", "lamp"], labels=["O", "B-X"]), model)
    assert rows[0] == {"tokens": ["a", "lamp"], "labels": ["O", "B-X"]}
    assert _texts(rows[0]) == {"text": "a lamp"}
    assert _names(rows, model) == [None] * 4
