"""`edgeforge advise`: flags, questions, contradictions, earlier builds, both languages."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from toolchain.cli import main
from toolchain.export.manifest import SCHEMA


@pytest.fixture(autouse=True)
def no_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO())


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def _json(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    assert main(["advise", *arguments, "--json"]) == 0
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def _manifest(folder: Path, **changes: Any) -> None:
    manifest = {
        "schema": SCHEMA,
        "model": "edgeforge-demo",
        "recipe": {"name": "export"},
        "target": {"name": "jetson-orin-nano"},
        "quantization": "Q4_K_M",
        "model_file": {"size_bytes": 3_290_000},
        "gates": [
            {"name": "mean KLD", "figure": 0.00123},
            {"name": "task score kept", "figure": None},
        ],
    }
    folder.mkdir(parents=True)
    (folder / "manifest.json").write_text(json.dumps({**manifest, **changes}))


def test_without_a_terminal_it_answers_and_says_what_it_assumed(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert main(["advise", "--target", "jetson"]) == 0
    out = capsys.readouterr().out
    assert "assumed: goal memory, quality high, labelled 0, unlabelled 0, training none" in out
    assert "1. Quantize" in out
    assert "run    edgeforge build --target jetson --model demo --out build" in out
    assert "arXiv:2210.17323" in out
    assert "estimated for this model: Q4_K_M" in out


def test_a_limit_of_ones_own_names_a_type_that_keeps_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Between the two smallest types' memory only the smaller one fits; below it nothing does."""
    plain = _json(capsys, "--target", "jetson")
    assert "--quantization" not in plain["ranked"][0]["commands"][0]
    assert main(["plan", "--target", "jetson", "--json"]) == 0
    plan = json.loads(capsys.readouterr().out)
    small, larger, *_ = sorted(c["total_bytes"] for c in plan["candidates"])
    between = str((small + larger) / 2 / (1 << 30))
    found = _json(capsys, "--target", "jetson", "--memory-gib", between)
    assert "--quantization Q4_K_M" in found["ranked"][0]["commands"][0]
    below = str(small * 0.5 / (1 << 30))
    arguments = ["--target", "jetson", "--memory-gib", below, "--training", "cpu"]
    assert main(["advise", *arguments]) == 0
    out = capsys.readouterr().out
    assert "1. Prune structures" in out
    assert "it still does not fit; raise prune.ratio" in out
    assert "Not advised:\n  - Quantize: no type of the target fits the memory" in out


def test_the_same_in_chinese(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "--target", "jetson", "--lang", "zh-CN"]) == 0
    out = capsys.readouterr().out
    assert "1. 量化（得分" in out
    assert "先量化：无需标注和训练" in out
    assert "costs" not in out


def test_figures_of_earlier_builds_go_before_those_of_the_docs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _manifest(tmp_path / "other" / "laptop", model="other", target={"name": "laptop"})
    _manifest(tmp_path / "edgeforge-demo" / "jetson-orin-nano")
    _manifest(tmp_path / "old" / "laptop", schema=SCHEMA + 1)
    assert main(["advise", "--target", "jetson", "--out", str(tmp_path)]) == 0
    captured = capsys.readouterr()
    measured = [line for line in captured.out.splitlines() if "measured in" in line]
    assert "edgeforge-demo for jetson-orin-nano, Q4_K_M, 3.1 MiB, mean KLD 0.00123" in measured[0]
    assert "other for laptop" in measured[1]
    assert f"note: {tmp_path / 'old' / 'laptop' / 'manifest.json'}" in captured.err
    found = _json(capsys, "--target", "jetson", "--out", str(tmp_path))
    assert found["ranked"][0]["measured"][0]["mean_kld"] == 0.00123


def test_on_a_terminal_only_what_is_missing_is_asked(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    # quality, memory, latency, labelled (refused once), unlabelled, training; hours need none.
    monkeypatch.setattr(sys, "stdin", Terminal("fair\n\n\nmany\n5000\n\nnone\n"))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    found = _json(capsys, "--target", "jetson", "--goal", "task")
    case = found["case"]
    assert (case["goal"], case["quality"], case["labelled"]) == ("task", "fair", 5000)
    assert case["assumed"] == ["unlabelled"]
    assert case["device"] == "edge"


def test_the_end_of_input_ends_the_questions(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(""))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    assert _json(capsys, "--target", "jetson")["ranked"][0]["option"] == "quantize"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--target", "jetson", "--device", "phone"], "--device phone and --target jetson"),
        (["--training", "none", "--hours", "3"], "--hours 3 and --training none"),
        (["--training", "gpu", "--hours", "0"], "--hours 0 and --training gpu"),
        (["--target", "jetson", "--memory-gib", "20"], "--memory-gib 20, but jetson-orin-nano"),
        (["--token-ms", "0"], "--token-ms 0"),
        (["--target", "jetsn"], "did you mean 'jetson'"),
        (["--model", "/no/such/folder"], "does not exist"),
    ],
)
def test_contradictions_and_bad_input_are_one_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["advise", *arguments]) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert captured.err.startswith("error: ")
    assert captured.out == ""


def test_a_number_that_is_none_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["advise", "--labelled", "-3"]) == 2
    assert "'-3' is no whole number from 0 on" in capsys.readouterr().err
