"""`edgeforge targets`, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.cli import main

ROOT = Path(__file__).resolve().parents[2]


def test_list_names_every_target_and_alias(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "list"]) == 0
    lines = capsys.readouterr().out.splitlines()
    names = [line.split()[0] for line in lines[1:]]
    assert names == sorted(path.stem for path in (ROOT / "targets").glob("*.yaml"))
    assert "jetson " in next(line for line in lines if line.startswith("jetson-orin-nano"))


def test_show_by_alias_gives_json_that_validates_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["targets", "show", "jetson", "--json"]) == 0
    path = tmp_path / "copy.yaml"
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    assert json.loads(path.read_text(encoding="utf-8"))["name"] == "jetson-orin-nano"
    assert main(["targets", "validate", str(path)]) == 0


def test_show_prints_yaml_that_validates_again(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert main(["targets", "show", "gpu-server"]) == 0
    path = tmp_path / "copy.yaml"
    path.write_text(capsys.readouterr().out, encoding="utf-8")
    assert main(["targets", "validate", str(path)]) == 0


def test_validate_checks_the_shipped_ones_by_default(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["targets", "validate", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert len(found["valid"]) == 7
    assert found["faults"] == {}


def test_validate_names_all_faults_of_all_files(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    text = (ROOT / "targets" / "laptop.yaml").read_text(encoding="utf-8")
    first, second = tmp_path / "a.yaml", tmp_path / "b.yaml"
    first.write_text(text.replace("kv_cache_type:", "kv_cache_typ:"), encoding="utf-8")
    second.write_text(text.replace("[Q4_K_M,", "[Q9_K_M,"), encoding="utf-8")
    assert main(["targets", "validate", str(first), str(second)]) == 2
    captured = capsys.readouterr()
    assert "2 of 2 target files have faults" in captured.err
    assert "did you mean 'kv_cache_type'" in captured.err
    assert "Q9_K_M" in captured.err
    assert captured.out.count("FAULTY") == 2


def test_an_unknown_target_is_one_message_without_traceback() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "toolchain", "targets", "show", "lptop"],
        capture_output=True,
        text=True,
        cwd=ROOT,
    )
    assert done.returncode == 2
    assert "did you mean 'laptop'" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_verbs_import_nothing_heavy() -> None:
    code = (
        "import sys, toolchain.commands.plan, toolchain.commands.targets;"
        "print([m for m in sys.modules if m in "
        "('torch','transformers','llama_cpp','numpy','gguf','pydantic','yaml')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"
