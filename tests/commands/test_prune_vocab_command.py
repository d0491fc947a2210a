"""`edgeforge prune-vocab` as a user runs it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_models import tiny_llama
from tiny_vocabularies import HELD_OUT, KEPT

from common.errors import UserError
from toolchain.commands import prune_vocab

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    tiny_llama(folder, hidden=32, ffn=64, layers=1, vocab=480)
    (folder.parent / "kept.txt").write_text("\n".join(KEPT))
    (folder.parent / "held.txt").write_text("\n".join(HELD_OUT))
    return folder


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    prune_vocab.add_arguments(parser)
    return prune_vocab.run(parser.parse_args([str(argument) for argument in arguments]))


def options(model: Path, out: Path) -> list[object]:
    kept, held = model.parent / "kept.txt", model.parent / "held.txt"
    return ["--model", model, "--out", out, "--text", kept, "--evaluation", held]


def test_the_command_says_what_went_and_where_the_result_is(model: Path, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "toolchain", "prune-vocab", *options(model, tmp_path)]
    done = subprocess.run(list(map(str, command)), cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "logits agree to" in done.stdout
    assert "1 documents have equal tokens" in done.stdout
    result = next(line for line in done.stdout.splitlines() if line.startswith("result: "))
    assert (Path(result.removeprefix("result: ")) / "model.safetensors").is_file()


def test_json_and_dry_run_agree(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run(*options(model, tmp_path / "plan"), "--dry-run", "--json")
    planned = json.loads(capsys.readouterr().out)
    assert not (tmp_path / "plan").exists()
    run(*options(model, tmp_path / "made"), "--json", "--no-verify")
    made = json.loads(capsys.readouterr().out)
    assert made["vocabulary"] == planned["vocabulary"]
    assert made["kept_for"] == planned["kept_for"]
    assert made["logits"] is None


def test_a_settings_file_names_text_relative_to_itself(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = model.parent / "settings.yaml"
    settings.write_text("text: [kept.txt]\nmultiple: 8\n")
    run("--model", model, "--out", tmp_path, "--settings", settings, "--dry-run", "--json")
    assert json.loads(capsys.readouterr().out)["vocabulary"][1] % 8 == 0


def test_nothing_is_left_of_a_refused_run(model: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="missing"):
        run("--model", model, "--out", tmp_path, "--text", tmp_path / "none.txt")
    assert not list(tmp_path.rglob("*.safetensors"))
