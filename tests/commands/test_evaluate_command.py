"""`edgeforge evaluate` as it is run: tables, JSON, answer files and every refusal."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest
from tiny_adapters import trained_adapter
from tiny_models import tiny_llama

from toolchain import cli
from toolchain.artifact import Artifact
from toolchain.export.gguf import convert


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("evaluate")


@pytest.fixture(scope="module")
def checkpoint(folder: Path) -> Path:
    return tiny_llama(folder / "checkpoint", hidden=128, ffn=96)


@pytest.fixture(scope="module")
def gguf(folder: Path, checkpoint: Path) -> Path:
    (folder / "gguf").mkdir()
    config = convert.Config(intermediate="f32", model_name="tiny")
    source = Artifact(checkpoint, "hf", {}, "input")
    return convert.run(source, config, folder / "gguf").only(".gguf")


@pytest.fixture(scope="module")
def task(folder: Path) -> Path:
    rows = [
        {"messages": [{"role": "user", "content": f'lamp {n}, "on"'}], "answer": f"灯 {n}"}
        for n in range(5)
    ]
    path = folder / "task.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def refused(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    """The one message of a run that ends with exit code 2."""
    assert cli.main(["evaluate", *map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("error: ") == 1 and "Traceback" not in printed.err
    return printed.err


def test_two_models_side_by_side(
    gguf: Path, checkpoint: Path, task: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = folder / "answers.csv"
    arguments = ["--metrics", "exact_match,rouge,chrf", "--text-tokens", "64", "--exact"]
    arguments += ["--max-tokens", "4", "--examples", "3", "--answers", str(answers)]
    arguments += ["--against", str(checkpoint), "--task", str(task)]
    code = cli.main(["evaluate", str(gguf), *arguments])
    printed = capsys.readouterr().out
    assert code == 0
    lines = {line.split("  ")[0]: line.split() for line in printed.splitlines() if line}
    assert next(iter(printed.splitlines())).split() == ["model-F32", "checkpoint", "difference"]
    perplexity = lines["perplexity"]
    assert float(perplexity[1]) == pytest.approx(float(perplexity[2]), rel=1e-4)
    assert {"exact_match", "rouge1", "rouge2", "rougeL", "chrf"} <= set(lines)
    assert "same top-1 token: 100.00%" in printed
    assert "task: 3 of 5 examples" in printed
    assert "answers that differ: 0 of 3" in printed
    with answers.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 3
    assert list(rows[0]) == [
        *("prompt", "reference", "answer", "right", "answer_other", "right_other")
    ]
    assert rows[0]["prompt"].endswith(', "on"') and rows[0]["reference"].startswith("灯 ")
    assert all(row["answer"] == row["answer_other"] != "" for row in rows)


def test_one_model_as_json(
    checkpoint: Path, task: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = folder / "answers.jsonl"
    arguments = ["--task", str(task), "--text", "none", "--max-tokens", "3", "--json"]
    assert cli.main(["evaluate", str(checkpoint), *arguments, "--answers", str(answers)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["perplexity"] is None and found["against"] is None
    assert found["scores"].keys() == {"exact_match", "f1"}
    assert found["task"] == {"examples": 5, "available_examples": 5}
    rows = [json.loads(line) for line in answers.read_text("utf-8").splitlines()]
    assert [row["reference"] for row in rows] == [f"灯 {n}" for n in range(5)]
    right = sum(row["right"] for row in rows)
    assert found["scores"]["exact_match"] == right / 5


def test_a_base_model_is_noted(
    folder: Path, task: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    base = tiny_llama(folder / "base", hidden=128, ffn=96, chat_template=False)
    arguments = ["--task", str(task), "--text", "none", "--max-tokens", "2"]
    assert cli.main(["evaluate", str(base), *arguments]) == 0
    assert "note: base has no chat template" in capsys.readouterr().out


def test_bad_arguments(
    gguf: Path, task: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "did you mean 'bleu'" in refused(capsys, gguf, "--metrics", "blue")
    assert "no known format" in refused(capsys, gguf, "--answers", "answers.xlsx")
    assert "does not exist" in refused(capsys, gguf, "--answers", folder / "no" / "a.csv")
    assert "nothing to measure" in refused(capsys, gguf, "--text", "none")
    assert "is missing" in refused(capsys, gguf, "--text", folder / "absent.txt")
    assert "no test set" in refused(capsys, gguf, "--text-tokens", 8, "--answers", folder / "a.csv")
    assert "'0'" in refused(capsys, gguf, "--examples", "0")


def test_bad_test_sets(gguf: Path, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    unanswered = folder / "unanswered.jsonl"
    good = {"messages": [{"role": "user", "content": "on"}], "answer": "yes"}
    bad = {"messages": [{"role": "user", "content": "on"}]}
    unanswered.write_text(f"{json.dumps(good)}\n{json.dumps(bad)}\n", "utf-8")
    message = refused(capsys, gguf, "--task", unanswered)
    assert "line 2 needs" in message and "'answer'" in message and "found: messages" in message
    unanswered.write_text('{"messages": [\n', "utf-8")
    assert "line 1 is no JSON" in refused(capsys, gguf, "--task", unanswered)


def test_bad_models(
    gguf: Path, checkpoint: Path, folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "nowhere.gguf is missing" in refused(capsys, folder / "nowhere.gguf")
    assert "does not exist" in refused(capsys, folder / "nowhere")
    assert "does not exist" in refused(capsys, folder / "nowhere", "--against", checkpoint)
    cut = folder / "cut.gguf"
    cut.write_bytes(gguf.read_bytes()[: gguf.stat().st_size // 2])
    assert f"{cut} is damaged or truncated" in refused(capsys, cut)
    cut.write_bytes(b"not a GGUF at all")
    assert f"{cut} is no GGUF file" in refused(capsys, cut)
    wide = tiny_llama(folder / "wide", hidden=128, ffn=96, vocab=340)
    message = refused(capsys, wide, "--against", gguf, "--text-tokens", 8)
    assert "vocabularies differ: wide has 340 tokens, model-F32 has 320" in message


def test_an_adapter_whose_base_moved(
    checkpoint: Path,
    task: Path,
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    adapter = folder / "adapter"
    trained_adapter(checkpoint, adapter)
    asked = ["--task", str(task), "--text-tokens", "64", "--max-tokens", "4", "--json"]
    asked += ["--metrics", "exact_match,accuracy,f1,bleu,rouge,chrf"]
    assert cli.main(["evaluate", str(adapter), *asked]) == 0
    before = json.loads(capsys.readouterr().out)
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    config["base_model_name_or_path"] = "moved"
    (adapter / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    message = refused(capsys, adapter)
    assert "the base 'moved' of adapter" in message and "hint: say where it lies: --base" in message
    moved = ["evaluate", str(adapter), *asked, "--base", str(checkpoint)]
    assert cli.main([*moved, "--against", str(checkpoint)]) == 0
    after = json.loads(capsys.readouterr().out)
    assert after["perplexity"] == pytest.approx(before["perplexity"], rel=1e-5)
    assert after["scores"] == before["scores"] and "chrf" in after["scores"]
    assert after["comparison"]["kld_mean"] > 1e-4
    monkeypatch.setattr("sys.stdin", io.StringIO("turn on the lamp\n"))
    base = ["--base", str(checkpoint), "--max-tokens", "4"]
    assert cli.main(["chat", str(adapter), *base]) == 0
    chatted = capsys.readouterr().out
    assert cli.main(["generate", str(adapter), "turn on the lamp", *base]) == 0
    assert chatted.strip() == capsys.readouterr().out.strip()


def test_options_of_the_harness_need_it(gguf: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "are for --harness" in refused(capsys, gguf, "--limit", 3)
    assert "its own tasks" in refused(capsys, gguf, "--harness", "a", "--text", "none")
    assert "test sets of classifiers" in refused(capsys, gguf, "--map", "label=a")
