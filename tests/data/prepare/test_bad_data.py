"""Bad data: one message that names the row, the reason and the mend, and nothing written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from tiny_models import tiny_llama

from common.errors import UserError
from toolchain.data.prepare.prepare import Settings, prepare

GOOD = '{"question": "a", "answer": "b"}'
USER, ANSWER = {"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}


def refuse(path: Path, **changes: Any) -> str:
    """What the user reads; the folder must be as it was, in a real and in a dry run."""
    before = sorted(p.name for p in path.parent.iterdir() if p.name != "cache")
    settings = Settings(
        **{"inputs": (path,), "out": path.parent / "out", "cache": path.parent / "cache", **changes}
    )
    messages = []
    for dry_run in (True, False):
        with pytest.raises(UserError) as fault:
            prepare(settings, dry_run=dry_run)
        messages.append(str(fault.value))
        assert sorted(p.name for p in path.parent.iterdir() if p.name != "cache") == before
    assert messages[0] == messages[1]
    return messages[0]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("a.jsonl", f'{GOOD}\n\n{{"question": "a" "answer": "b"}}\n', "line 3 is broken JSON"),
        ("a.jsonl", f"{GOOD}\n{GOOD[:-1]}", "line 2 is broken JSON"),
        ("a.jsonl", f"{GOOD}\n[1]", "line 2 is no row but list"),
        ("a.json", f"[\n{GOOD},\n{GOOD[:-3]}\n]", "line 3 is broken JSON"),
        ("a.json", f"[\n{GOOD},\n7]", "line 3 is no row but int"),
        ("a.json", '{\n"data": []\n}', "line 1 is broken JSON"),
        ("a.jsonl", "", "is empty"),
        ("a.jsonl", "\n \n", "has no rows"),
        ("a.json", "[]", "has no rows"),
        ("a.csv", "", "is empty"),
        ("a.csv", "question,answer\n", "has no rows"),
        ("a.csv", "question,answer\na,b\nc,d,e\n", "Expected 2 fields in line 3, saw 3"),
        ("a.csv", 'question,answer\na,"b\nc,d\n', "EOF inside string"),
        ("a.csv", "question,question\na,b\n", "has the column 'question' twice"),
        ("a.parquet", "no parquet", "cannot be read"),
        ("a.xlsx", "x", "unknown suffix '.xlsx'"),
        ("a", "x", "unknown suffix ''"),
        ("a.jsonl", '{"question": "a", "answer": 4}', "'answer' is int, not text: 4"),
        ("a.jsonl", f'{GOOD}\n{{"question": "a"}}', "line 2: lacks 'answer'; found: question"),
        ("a.jsonl", '{"text": "\\ud800"}', "half a surrogate pair"),
        ("a.jsonl", '{"text": " "}', "no row is left of 1: 1 empty"),
        ("a.csv", "ask,reply\na,b\n", "columns found: ask, reply"),
        ("a.csv", "ask,reply\na,b\n", "--map question=ask --map answer=reply"),
        ("a.csv", "question,answer,text\na,b,c\n", "fit qa and text"),
        ("a.jsonl", GOOD, "1 different prompts are too few for 3 splits"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: str, reason: str) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    message = refuse(path)
    assert reason in message
    assert name in message or "splits" in message or "no row" in message


@pytest.mark.parametrize(
    ("messages", "reason"),
    [
        ([ANSWER], "message 1 has the role 'assistant' where 'user' must be"),
        ([USER, USER, ANSWER], "message 2 has the role 'user' where 'assistant' must be"),
        ([USER, {"role": "system", "content": "s"}], "message 2 has the role 'system'"),
        ([USER], "the last message is the user's"),
        ([{"role": "system", "content": "s"}], "the last message is the system's"),
        ([USER, {"role": "tool", "content": "s"}], "message 2 has the role 'tool'"),
        (
            [USER, {"role": "assistant", "content": 5}],
            "message 2: 'content' must be text, it is int",
        ),
        ([USER, {"role": "assistant"}], "message 2: 'content' must be text, it is missing"),
        ([USER, "answer"], "message 2 is str, not role and content"),
        (7, "'messages' is int, not a list"),
        ("[{", "'messages' is broken JSON"),
    ],
)
def test_conversations_out_of_order_name_their_row(
    tmp_path: Path, messages: Any, reason: str
) -> None:
    path = tmp_path / "a.jsonl"
    rows = [{"messages": [USER, ANSWER]}, {"messages": messages}]
    path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    message = refuse(path)
    assert f"a.jsonl line 2: {reason}" in message


def test_every_faulty_row_is_named_at_once(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    rows = [{"messages": [USER, ANSWER][: 1 + n % 2]} for n in range(6)]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    message = refuse(path)
    assert "3 rows have faults" in message
    assert all(f"row {n}:" in message for n in (1, 3, 5))


def test_a_file_that_is_missing(tmp_path: Path) -> None:
    assert "is missing" in refuse(tmp_path / "none.jsonl")


def test_a_file_that_is_not_utf8(tmp_path: Path) -> None:
    for name in ("a.jsonl", "a.json", "a.csv"):
        path = tmp_path / name
        path.write_bytes('question,answer\n"灯",开\n'.encode("gb18030"))
        assert "not UTF-8" in refuse(path)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"mapping": {"question": "frage"}}, "--map question=frage: the file has no such column"),
        ({"mapping": {"qestion": "a"}}, "did you mean 'question'?"),
        ({"form": "alpaka"}, "did you mean 'alpaca'?"),
        ({"form": "chat"}, "format chat needs messages; columns found: question, answer"),
        ({"max_tokens": 10}, "--max-tokens needs a tokenizer"),
    ],
)
def test_settings_that_do_not_fit_the_file(
    tmp_path: Path, changes: dict[str, Any], reason: str
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(GOOD, encoding="utf-8")
    assert reason in refuse(path, **changes)


def test_a_context_beyond_the_models_and_a_base_model_are_refused(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "m", hidden=64, ffn=64, chat_template=False)
    path = tmp_path / "a.jsonl"
    path.write_text(GOOD, encoding="utf-8")
    assert "exceeds the context of m: 512 tokens" in refuse(path, model=model, max_tokens=513)
    assert "no chat template" in refuse(path, model=model)


def test_a_folder_of_other_files_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c"}', encoding="utf-8")
    (tmp_path / "mine").mkdir()
    thesis = tmp_path / "mine" / "thesis.txt"
    thesis.write_text("years of work", encoding="utf-8")
    assert "has files that are not of prepared data: thesis.txt" in refuse(
        path, out=tmp_path / "mine"
    )
    assert "lies in" in refuse(path, out=tmp_path)
    assert thesis.read_text(encoding="utf-8") == "years of work"


def test_what_was_prepared_before_survives_a_faulty_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n{"text": "c"}', encoding="utf-8")
    prepare(Settings((path,), tmp_path / "out", cache=tmp_path / "cache"))
    before = {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()}
    path.write_text('{"text": "a"}\n{"text": 7}', encoding="utf-8")
    refuse(path)
    assert {p.name: p.read_bytes() for p in (tmp_path / "out").iterdir()} == before
