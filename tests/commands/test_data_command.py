"""`edgeforge data`, run as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.cli import main

ROOT = Path(__file__).resolve().parents[2]


def test_sample_then_prepare(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, out = tmp_path / "qa.csv", tmp_path / "data"
    assert main(["data", "sample", "--format", "qa", "--count", "40", "--out", str(source)]) == 0
    assert "40 rows written" in capsys.readouterr().out
    options = ["--split", "0.5,0.25,0.25", "--seed", "4", "--cache", str(tmp_path / "cache")]
    assert main(["data", "prepare", str(source), "--out", str(out), *options]) == 0
    shown = capsys.readouterr().out
    assert "40 rows read, 40 kept: 0 empty, 0 duplicates" in shown
    report = json.loads((out / "report.json").read_text("utf-8"))
    counts = {
        name: len((out / f"{name}.jsonl").read_text("utf-8").splitlines())
        for name in ("train", "validation", "test")
    }
    assert {name: split["rows"] for name, split in report["splits"].items()} == counts
    assert sum(counts.values()) == 40
    assert sorted(path.name for path in tmp_path.iterdir()) == ["cache", "data", "qa.csv"]


def test_json_goes_to_stdout_alone_and_a_dry_run_writes_nothing(tmp_path: Path) -> None:
    source = tmp_path / "a.json"
    source.write_text('[{"ask": "a", "reply": "b"}, {"ask": "c", "reply": "d"}]', encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-m", "toolchain", "data", "prepare", str(source), "--json", "--dry-run",
         "--map", "question=ask", "--map", "answer=reply", "--split", "0.5,0.5,0",
         "--out", str(tmp_path / "data")],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    report = json.loads(done.stdout)
    assert {name: split["rows"] for name, split in report["splits"].items()} == {
        "train": 1,
        "validation": 1,
    }
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        (["prepare", "none.jsonl"], "none.jsonl is missing"),
        (["prepare", "a.jsonl", "--split", "0.9,0.2,0.1"], "adds up to 1.2, not 1"),
        (["prepare", "a.jsonl", "--map", "question"], "is not COLUMN=NAME"),
        (["prepare", "a.jsonl", "--map", "text=a", "--map", "text=b"], "names 'text' twice"),
        (["prepare", "a.jsonl"], "a.jsonl line 2 is broken JSON"),
        (["prepare", "a.jsonl", "--model", "./nowhere"], "./nowhere does not exist"),
        (["sample", "--format", "qna", "--out", "b.csv"], "unknown format 'qna'"),
        (["sample", "--format", "qa", "--out", "b.xml"], "unknown suffix '.xml'"),
        (["sample", "--format", "qa", "--out", "b.csv", "--count", "0"], "is not in 1.."),
    ],
)
def test_faults_are_one_message_and_write_nothing(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    reason: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n{"text": "b"\n', encoding="utf-8")
    if options[0] == "prepare":
        options = [*options, "--dry-run"]
    assert main(["data", *options]) == 2
    captured = capsys.readouterr()
    assert reason in captured.err
    assert captured.out == ""
    assert [path.name for path in tmp_path.iterdir()] == ["a.jsonl"]


def test_a_sample_is_the_same_for_the_same_seed(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    for path, seed in zip(files, ("1", "1", "2"), strict=True):
        options = ["--format", "chat", "--count", "10", "--seed", seed, "--out", str(path)]
        assert main(["data", "sample", *options]) == 0
    first, second, third = (path.read_bytes() for path in files)
    assert first == second != third


def test_the_verb_imports_nothing_heavy() -> None:
    code = (
        "import sys, argparse, toolchain.commands.data as data;"
        "data.add_arguments(argparse.ArgumentParser());"
        "print([m for m in sys.modules if m in ('torch','transformers','datasets','pandas',"
        "'pyarrow','numpy','pydantic','yaml')])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stdout.strip() == "[]"
