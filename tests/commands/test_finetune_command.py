"""The verb `finetune`: from a data file to an adapter in its place."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import tiny_llama
from train_runs import chat_rows

from common.errors import EXIT_BAD_INPUT
from toolchain.cli import main


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "base", hidden=64, ffn=96)


@pytest.fixture
def chats(tmp_path: Path) -> Path:
    path = tmp_path / "chats.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in chat_rows(20)))
    return path


def test_trained_then_up_to_date_then_changed(
    base: Path, chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", "--model", str(base), "--data", str(chats), "--out", str(tmp_path / "b")]
    words += ["--epochs", "1", "--json"]
    assert main(words) == 0
    shown = capsys.readouterr()
    facts = json.loads(shown.out)
    assert facts["result"] == str(tmp_path / "b" / "base-chats")
    assert facts["format"] == "adapter" and not facts["up_to_date"]
    for told in ("trainable: 14,848 of 117,568", "memory: about", "steps: 2 of 8 rows"):
        assert told in shown.err
    assert (tmp_path / "b/base-chats/adapter_model.safetensors").is_file()
    assert main(words) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["up_to_date"] and again["digest"] == facts["digest"]


def test_dry_run_writes_nothing(
    base: Path, chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", "--model", str(base), "--data", str(chats), "--out", str(tmp_path / "b")]
    assert main([*words, "--dry-run", "--json", "--rank", "4"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["trainable_parameters"] == 7424 and facts["steps"] == 6
    assert not (tmp_path / "b").exists()


def test_bad_input(
    base: Path, chats: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["finetune", "--model", str(base), "--out", str(tmp_path / "b"), "--data"]
    (tmp_path / "wrong.csv").write_text("ask,reply\na,b\n")
    (tmp_path / "b" / "base-chats").mkdir(parents=True)
    (tmp_path / "b" / "base-chats" / "mine.txt").write_text("keep")
    for more, told in (
        ([str(tmp_path / "nothing.csv")], "does not exist"),
        ([str(tmp_path / "wrong.csv")], "columns found: ask, reply"),
        ([str(tmp_path)], "is no folder that"),
        ([str(chats)], "is no result of training"),
    ):
        assert main([*words, *more]) == EXIT_BAD_INPUT
        assert told in capsys.readouterr().err
    assert (tmp_path / "b/base-chats/mine.txt").read_text() == "keep"


def test_help_is_quick() -> None:
    code = (
        "import sys; from toolchain.cli import main\n"
        "try: main(['finetune', '--help'])\n"
        "except SystemExit: pass\n"
        "print(sorted({'torch', 'transformers', 'peft', 'pyarrow'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
    assert "--early-stopping-patience" in done.stdout
