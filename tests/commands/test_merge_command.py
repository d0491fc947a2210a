"""`edgeforge merge` as a user runs it."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

import pytest
from tiny_adapters import trained_adapter
from tiny_models import tiny_llama

from common.errors import UserError
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.intake import open_checkpoint
from toolchain.checkpoint.validate import validate
from toolchain.commands import merge
from toolchain.compress.base_record import record_base

ROOT = Path(__file__).parents[2]


def run(*arguments: object) -> int:
    parser = argparse.ArgumentParser(allow_abbrev=False)
    merge.add_arguments(parser)
    return merge.run(parser.parse_args([str(argument) for argument in arguments]))


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("pair")
    base = tiny_llama(folder / "tiny", hidden=64, ffn=96)
    trained_adapter(base, folder / "lora")
    record_base(folder / "lora", open_checkpoint(base, None)[0], None)
    return base, folder / "lora"


def test_merges_proves_and_is_up_to_date_the_second_time(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter = pair
    arguments = ("--model", base, "--adapter", adapter, "--out", tmp_path, "--json")
    assert run(*arguments) == 0
    first = json.loads(capsys.readouterr().out)
    assert first["model"] == str(tmp_path / "tiny-lora")
    assert first["verification"]["status"] == "passed"
    assert first["verification"]["max_abs_diff"] < 1e-4
    assert first["base_proven"] and not first["warnings"] and not first["up_to_date"]
    validate(inspect(tmp_path / "tiny-lora"))
    assert run(*arguments) == 0
    second = json.loads(capsys.readouterr().out)
    assert second["up_to_date"] and second["digest"] == first["digest"]
    assert run(*arguments, "--dtype", "bfloat16", "--no-verify") == 0
    third = json.loads(capsys.readouterr().out)
    assert not third["up_to_date"] and third["verification"]["status"] == "skipped"
    assert {tensor.dtype for tensor in inspect(tmp_path / "tiny-lora").tensors} == {"BF16"}


def test_dry_run_says_sizes_and_writes_nothing(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter = pair
    out = tmp_path / "out"
    assert run("--model", base, "--adapter", adapter, "--out", out, "--json", "--dry-run") == 0
    said = json.loads(capsys.readouterr().out)
    assert said["changed_tensors"] == 14
    assert said["size_bytes"] == sum(tensor.size_bytes for tensor in inspect(base).tensors)
    assert not out.exists()


def test_refuses_another_base_and_foreign_folders(
    pair: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base, adapter = pair
    other = tiny_llama(tmp_path / "other", hidden=64, ffn=96, seed=9)
    out = tmp_path / "out"
    with pytest.raises(UserError, match="trained on another base: tiny") as error:
        run("--model", other, "--adapter", adapter, "--out", out)
    assert "--force" in error.value.mend
    assert not (out / "other-lora").exists()
    assert run("--model", other, "--adapter", adapter, "--out", out, "--force") == 0
    assert "warning: forced" in capsys.readouterr().err
    (out / "tiny-lora").mkdir()
    (out / "tiny-lora" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is no merged model"):
        run("--model", base, "--adapter", adapter, "--out", out)
    assert (out / "tiny-lora" / "mine.txt").read_text() == "mine"


def test_help_needs_nothing_heavy() -> None:
    code = (
        "import argparse, sys; from toolchain.commands import merge; "
        "merge.add_arguments(argparse.ArgumentParser()); "
        "heavy = {'torch', 'numpy', 'pydantic', 'peft', 'transformers'} & set(sys.modules); "
        "sys.exit(', '.join(heavy) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
