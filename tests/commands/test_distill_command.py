"""The verb `distill`: who teaches whom, and faults as one line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tiny_models import tiny_llama
from train_runs import chat_rows

from common.errors import EXIT_BAD_INPUT
from toolchain.cli import main


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, str]:
    """Teacher, student and data."""
    root = tmp_path_factory.mktemp("pair")
    teacher = tiny_llama(root / "teacher", hidden=64, ffn=96)
    student = tiny_llama(root / "student", hidden=32, ffn=48, layers=1, heads=2, kv_heads=1)
    chats = root / "chats.jsonl"
    chats.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(12)))
    return str(teacher), str(student), str(chats)


def test_either_may_be_named(
    pair: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    teacher, student, chats = pair
    words = ["--data", chats, "--out", str(tmp_path / "b"), "--dry-run", "--json"]
    found = []
    for names in (["--model", student, "--teacher", teacher],
                  ["--model", teacher, "--student", student]):  # fmt: skip
        assert main(["distill", *names, *words]) == 0
        found.append(json.loads(capsys.readouterr().out))
    assert found[0] == found[1]
    assert found[0]["trainable_parameters"] == found[0]["total_parameters"] == 28_256
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([], "nobody teaches"),
        (["--teacher", "{student}"], "the same checkpoint"),
        (["--teacher", "{teacher}", "--temperature", "0"], "'temperature'"),
        (["--teacher", "{teacher}", "--alpha", "1.5"], "'alpha'"),
        (["--teacher", "{teacher}", "--on-policy", "0.5", "--packing"], "leave packing off"),
    ],
)
def test_bad_input(
    words: list[str],
    told: str,
    pair: tuple[str, str, str],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    teacher, student, chats = pair
    given = [word.format(teacher=teacher, student=student) for word in words]
    command = ["distill", "--model", student, "--data", chats, "--out", str(tmp_path / "b")]
    assert main([*command, *given]) == EXIT_BAD_INPUT
    said = capsys.readouterr()
    assert told in said.err and "Traceback" not in said.err
    assert not list(tmp_path.rglob("model.safetensors"))


def test_a_fresh_student_is_cut_by_what_matters_in_the_data(
    pair: tuple[str, str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chats = tmp_path / "chats.jsonl"
    chats.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(60)))
    words = ["--model", pair[0], "--student", "ratio=0.5,calibration_tokens=512"]
    out = tmp_path / "b"
    assert (
        main(["distill", *words, "--data", str(chats), "--max-steps", "1", "--out", str(out)]) == 0
    )
    assert "learned from" in capsys.readouterr().out
    (text,) = out.glob("*/.stages/text-*.txt")
    told = text.read_text(encoding="utf-8")
    rows = [row["messages"][1]["content"] for row in chat_rows(60)]
    assert sum(answer in told for answer in rows) > 30  # those of train
