"""Which documents' tokens stay."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from common.errors import UserError
from toolchain.compress.prune_vocab.settings import Vocabulary
from toolchain.compress.prune_vocab.texts import kept_documents, settled
from toolchain.stage import Input


def write(path: Path, *rows: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_task_is_its_prompt_as_it_is_asked_and_its_answer(
    byte_level: Path, tmp_path: Path
) -> None:
    asked = [{"role": "user", "content": "lamp on"}]
    path = write(tmp_path / "task.jsonl", {"messages": asked, "answer": "done"})
    assert kept_documents([path], byte_level) == (
        "<|im_start|>user\nlamp on<|im_end|>\n<|im_start|>assistant\ndone",
    )


def test_pairs_and_words_of_encoders_count(byte_level: Path, tmp_path: Path) -> None:
    pair = write(tmp_path / "a.jsonl", {"text": "one", "text_pair": "two", "label": 1})
    words = write(tmp_path / "b.jsonl", {"tokens": ["three", "four"], "labels": ["O", "O"]})
    assert kept_documents([pair, words], byte_level) == ("one", "two", "three four")


def test_a_document_counts_once(byte_level: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", {"text": "same"}, {"text": "same"})
    assert kept_documents([path, path], byte_level) == ("same",)


def test_without_text_the_models_own_data_counts(tmp_path: Path) -> None:
    calibration = Input.of_file(write(tmp_path / "c.txt", "calibration"))
    train = write(tmp_path / "model" / "edgeforge" / "train.jsonl", {"text": "a"})
    found = settled(Vocabulary(), calibration, tmp_path / "model")
    assert [item.path for item in found] == [calibration.path, train]
    prepared = write(tmp_path / "data" / "train.jsonl", {"text": "b"})
    found = settled(Vocabulary(), calibration, tmp_path / "model", tmp_path / "data")
    assert [item.path for item in found] == [calibration.path, prepared]
    given = settled(Vocabulary(text=(train,)), calibration, tmp_path / "model")
    assert [item.path for item in given] == [train]


def test_missing_and_empty_text_is_refused(byte_level: Path, tmp_path: Path) -> None:
    calibration = Input.of_file(write(tmp_path / "c.txt", "calibration"))
    with pytest.raises(UserError, match="missing"):
        settled(Vocabulary(text=(tmp_path / "none.txt",)), calibration, byte_level)
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(UserError, match="has no text"):
        kept_documents([tmp_path / "empty.txt"], byte_level)
    with pytest.raises(UserError, match="no text says which tokens must stay"):
        kept_documents([], byte_level)
