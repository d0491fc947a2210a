"""Where calibration, evaluation and task text come from, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from toolchain.data import text as texts

CHATML = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{{ eos_token }}{% endfor %}"


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    folder = tmp_path / "checkpoint"
    (folder / "edgeforge").mkdir(parents=True)
    config = {"chat_template": CHATML, "eos_token": {"content": "</s>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def write_rows(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), "utf-8")
    return path


def test_text_file_is_split_at_separator_lines_only(checkpoint: Path, tmp_path: Path) -> None:
    given = tmp_path / "given.txt"
    given.write_text("one\nline\n<|document|>\n\n \n<|document|>\na <|document|> inside\n", "utf-8")
    source = texts.evaluation_text(checkpoint, given)
    assert source.documents == ("one\nline", "a <|document|> inside")
    assert (source.name, source.origin) == ("given.txt", "given")


def test_written_text_reads_back_equal(checkpoint: Path, tmp_path: Path) -> None:
    rows = [{"text": "  spaces \n\nand 中文\r\nkept\n"}, {"text": "second"}]
    given = write_rows(tmp_path / "given.jsonl", *rows)
    source = texts.calibration_text(checkpoint, given)
    texts.write_text(source, tmp_path / "out.txt")
    assert texts.read_documents(tmp_path / "out.txt") == [row["text"] for row in rows]


def test_a_document_with_a_separator_line_is_not_written(tmp_path: Path) -> None:
    source = texts.TextSource("x", ("a\n<|document|>\nb",), "", "given")
    with pytest.raises(UserError, match=r"line '<|document|>' of its own"):
        texts.write_text(source, tmp_path / "out.txt")


def test_companion_comes_before_default_and_is_rendered(checkpoint: Path) -> None:
    row = {
        "messages": [{"role": "user", "content": "开灯"}, {"role": "assistant", "content": "好"}]
    }
    write_rows(checkpoint / "edgeforge" / "evaluation.jsonl", row)
    source = texts.evaluation_text(checkpoint)
    assert source.documents == ("<|user|>开灯</s><|assistant|>好</s>",)
    assert source.origin == "checkpoint"


def test_given_file_comes_before_companion(checkpoint: Path, tmp_path: Path) -> None:
    write_rows(checkpoint / "edgeforge" / "calibration.jsonl", {"text": "companion"})
    given = write_rows(tmp_path / "mine.jsonl", {"text": "mine"})
    assert texts.calibration_text(checkpoint, given).documents == ("mine",)
    assert texts.calibration_text(checkpoint).documents == ("companion",)


def test_digest_follows_the_documents(checkpoint: Path, tmp_path: Path) -> None:
    one = texts.evaluation_text(checkpoint, write_rows(tmp_path / "1.jsonl", {"text": "a"}))
    same = texts.evaluation_text(checkpoint, write_rows(tmp_path / "2.jsonl", {"text": "a"}))
    other = texts.evaluation_text(checkpoint, write_rows(tmp_path / "3.jsonl", {"text": "b"}))
    assert one.digest == same.digest != other.digest


def test_shared_documents_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    first = write_rows(tmp_path / "cal.jsonl", {"text": "only here"}, {"text": "in both "})
    second = write_rows(tmp_path / "eval.jsonl", {"text": "in both"}, {"text": "another"})
    calibration = texts.calibration_text(checkpoint, first)
    with pytest.raises(UserError, match=r"share 1 documents.*'in both'"):
        texts.require_held_out(calibration, texts.evaluation_text(checkpoint, second))
    third = write_rows(tmp_path / "clean.jsonl", {"text": "another"})
    texts.require_held_out(calibration, texts.evaluation_text(checkpoint, third))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "has no text"),
        (b'{"text": "a"}\n{"text": \n', "line 2 is no JSON"),
        (b'{"txt": "a"}\n', "line 1 has neither.*found: txt"),
        (b'{"messages": [{"role": "user"}]}\n', "line 1 has neither"),
        (b'{"messages": []}\n', "line 1 has neither"),
        (b"[1]\n", "line 1 is no JSON object"),
        (b"\xff\xfe\n", "UTF-8"),
    ],
)
def test_bad_rows_are_named(checkpoint: Path, tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        texts.evaluation_text(checkpoint, path)


def test_missing_file_is_named(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"absent\.txt is missing"):
        texts.evaluation_text(checkpoint, tmp_path / "absent.txt")


def test_conversations_need_a_chat_template(checkpoint: Path, tmp_path: Path) -> None:
    (checkpoint / "tokenizer_config.json").write_text("{}")
    row = {"messages": [{"role": "user", "content": "hi"}]}
    with pytest.raises(UserError, match="no chat template"):
        texts.evaluation_text(checkpoint, write_rows(tmp_path / "chat.jsonl", row))


def test_task_examples_drop_the_answering_turn(checkpoint: Path) -> None:
    assert texts.task_examples(checkpoint) is None
    user = {"role": "user", "content": "开灯"}
    row = {"messages": [user, {"role": "assistant", "content": "{}"}], "answer": "{}"}
    write_rows(checkpoint / "edgeforge" / "task.jsonl", row)
    examples = texts.task_examples(checkpoint)
    assert examples == [texts.TaskExample((user,), "{}")]


def test_task_rows_without_answer_are_refused(checkpoint: Path, tmp_path: Path) -> None:
    row = {"messages": [{"role": "user", "content": "x"}]}
    with pytest.raises(UserError, match=r"line 1 needs 'messages'.*found: messages"):
        texts.task_examples(checkpoint, write_rows(tmp_path / "task.jsonl", row))


def test_default_texts_share_no_document(tmp_path: Path) -> None:
    if not (texts.DEFAULT_TEXTS / "evaluation.txt").is_file():
        pytest.skip("the default texts are not there")
    calibration, evaluation = texts.calibration_text(tmp_path), texts.evaluation_text(tmp_path)
    texts.require_held_out(calibration, evaluation)
    assert calibration.origin == evaluation.origin == "default"
    assert len(evaluation.documents) > 5
