"""Rows to ids: counts are right, and every faulty row is named."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from train_runs import chat_rows, class_rows, write_data

from common.errors import UserError
from toolchain.hf import load_tokenizer
from toolchain.train.encoded import DataFacts, data_kind, encode_data
from toolchain.train.settings import Finetune

LONG = {"role": "assistant", "content": "bits " * 300}


def encode(model: Path, data: Path, out: Path, limit: int = 200, **settings: Any) -> DataFacts:
    out.mkdir(exist_ok=True)
    return encode_data(data, out, load_tokenizer(model), Finetune(**settings), limit)


def test_counts(base: Path, tmp_path: Path) -> None:
    from datasets import Dataset

    data = write_data(tmp_path / "d", train=chat_rows(5), validation=chat_rows(2))
    found = encode(base, data, tmp_path / "out")
    rows = Dataset.from_file(str(tmp_path / "out" / "train.arrow"))
    assert found.train.examples == found.train.rows == len(rows) == 5
    assert found.train.tokens == sum(len(row["input_ids"]) for row in rows)
    assert found.train.learned == sum(label >= 0 for row in rows for label in row["labels"])
    assert 0 < found.train.learned < found.train.tokens
    assert found.validation.examples == 2
    everything = encode(base, data, tmp_path / "all", loss_on="all")
    assert everything.train.learned == found.train.tokens - 5  # no first token is predicted
    assert encode(base, data, tmp_path / "out") == found  # taken, not made again


def test_longer_texts_are_cut_and_counted(base: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "d", train=[{"text": "lamp " * 100}, {"text": "fox"}])
    found = encode(base, data, tmp_path / "out", limit=20)
    assert found.train.truncated == 1 and found.train.longest == 20


def test_every_faulty_row_is_named(base: Path, tmp_path: Path) -> None:
    rows = chat_rows(3)
    rows[0] = {"messages": [rows[0]["messages"][0], LONG]}
    rows[2] = {"prompt": "x"}
    data = write_data(tmp_path / "d", train=[chat_rows(1)[0], *rows])
    with pytest.raises(UserError) as caught:
        encode(base, data, tmp_path / "out")
    assert len(caught.value.details) == 2
    assert "train.jsonl line 2: the answer has" in caught.value.details[0]
    assert "line 4: has neither messages nor text; found: prompt" in caught.value.details[1]
    assert "raise max_tokens (200)" in caught.value.mend
    assert not (tmp_path / "out" / "train.arrow").exists()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("", "train.jsonl is empty"),
        ('{"messages": [}\n', "train.jsonl line 1 is broken JSON"),
        ("[1]\n", "line 1 is no object"),
        ('{"question": "x"}\n', "neither messages nor text; found: question"),
    ],
)
def test_files_that_are_no_data(content: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text(content)
    with pytest.raises(UserError, match=told):
        data_kind(tmp_path)


def test_labels(encoder: Path, tmp_path: Path) -> None:
    data = write_data(tmp_path / "d", train=class_rows(6), validation=class_rows(2))
    found = encode(encoder, data, tmp_path / "out")
    assert found.kind == "classification" and found.labels == ("cold", "warm")
    unseen = [{"text": "x", "label": "hot"}]
    data = write_data(tmp_path / "e", train=class_rows(6), validation=unseen)
    with pytest.raises(UserError) as caught:
        encode(encoder, data, tmp_path / "unseen")
    assert "validation.jsonl line 1: the label 'hot' is not in train" in caught.value.details[0]
    data = write_data(tmp_path / "f", train=class_rows(1))
    with pytest.raises(UserError, match=r"all rows of train\.jsonl have the label 'cold'"):
        encode(encoder, data, tmp_path / "one")
    mixed = [*class_rows(2), {"text": "no label"}]
    with pytest.raises(UserError, match="line 3 has no label that is text"):
        encode(encoder, write_data(tmp_path / "g", train=mixed), tmp_path / "mixed")
