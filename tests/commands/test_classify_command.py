"""`edgeforge classify`, and `evaluate` of classifiers, adapters and embedding models."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_classifiers import ROWS, classifier_adapter, trained_classifier
from tiny_models import tiny_bert

from runtimes.protocol import TokenScores
from toolchain import cli
from toolchain.encoders import open_classifier
from toolchain.evaluate.read_texts import mentions

Printed = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("classify")


@pytest.fixture(scope="module")
def trained(folder: Path) -> Path:
    return trained_classifier(tiny_bert(folder / "trained", labels=("on", "off")))


@pytest.fixture(scope="module")
def untrained(folder: Path) -> Path:
    return tiny_bert(folder / "untrained", labels=("off", "on"), seed=3)


@pytest.fixture(scope="module")
def task(folder: Path) -> Path:
    path = folder / "task.csv"
    with path.open("w", encoding="utf-8", newline="") as stream:
        writer = csv.writer(stream)
        writer.writerow(["text", "label", "id"])
        writer.writerows([text, label, ("on", "off").index(label)] for text, label in ROWS)
    return path


def run(capsys: Printed, *arguments: object) -> Any:
    assert cli.main([*map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def refused(capsys: Printed, *arguments: object) -> str:
    capsys.readouterr()
    assert cli.main([*map(str, arguments)]) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.count("error: ") == 1
    return printed.err


def test_texts_get_their_labels(trained: Path, folder: Path, capsys: Printed) -> None:
    found = run(capsys, "classify", trained, "Turn on the fox", "jumps over the lamp", "--top", 2)
    assert [row["label"] for row in found["texts"]] == ["on", "off"]
    for row in found["texts"]:
        assert sum(one["probability"] for one in row["labels"]) == pytest.approx(1, abs=1e-5)
    lines, rows = folder / "lines.txt", folder / "rows.jsonl"
    lines.write_text("Turn on the fox\n\njumps over the lamp\n", "utf-8")
    rows.write_text('{"text": "Turn on", "text_pair": "the fox"}\n', "utf-8")
    assert cli.main(["classify", str(trained), "--file", str(lines)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in shown] == ["on", "off"]
    by_file = run(capsys, "classify", trained, "--file", rows)["texts"]
    assert by_file == run(capsys, "classify", trained, "Turn on", "--pair", "the fox")["texts"]


def test_an_evaluation_with_answers(
    trained: Path, untrained: Path, task: Path, folder: Path, capsys: Printed
) -> None:
    answers = folder / "answers.csv"
    options = ["--task", task, "--against", untrained, "--answers", answers]
    found = run(capsys, "evaluate", trained, *options)
    assert found["scores"]["accuracy"] == found["scores"]["macro_f1"] == 1
    with answers.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["label"] for row in rows] == [label for _, label in ROWS]
    same = sum(row["answer"] == row["answer_other"] for row in rows) / len(rows)
    assert found["comparison"]["agreement"] == pytest.approx(same)
    other = sum(row["right_other"] == "True" for row in rows) / len(rows)
    assert found["against"]["scores"]["accuracy"] == pytest.approx(other)
    assert found["comparison"]["kld_mean"] > 0.01
    itself = run(capsys, "evaluate", trained, "--task", task, "--against", trained)
    assert itself["comparison"]["kld_max"] == 0
    by_number = run(capsys, "evaluate", trained, "--task", task, "--map", "label=id")
    assert by_number["scores"] == found["scores"]
    assert cli.main(["evaluate", str(trained), *map(str, options), "--examples", "9"]) == 0
    shown = capsys.readouterr().out
    assert "same answer:" in shown and "task: task.csv, 9 of 36 texts" in shown


def test_companion_data_serve_where_no_task_is_given(
    trained: Path, folder: Path, capsys: Printed
) -> None:
    own = folder / "own"
    shutil.copytree(trained, own)
    (own / "edgeforge").mkdir()
    lines = [json.dumps({"text": text, "label": label}) for text, label in ROWS[::-1]]
    (own / "edgeforge" / "task.jsonl").write_text("\n".join(lines), "utf-8")
    assert run(capsys, "evaluate", own)["task"]["examples"] == len(ROWS)


def test_an_adapter_brings_its_head_and_finds_its_base(
    folder: Path, task: Path, capsys: Printed
) -> None:
    import torch

    from toolchain.hf import load_tokenizer

    base, adapter = tiny_bert(folder / "base", task="embedding"), folder / "adapter"
    tuned = classifier_adapter(base, adapter)
    (adapter / "labels.json").write_text('["on", "off"]', "utf-8")
    with open_classifier(str(adapter)) as model:
        scores = model.engine.scores([text for text, _ in ROWS])
    tokenizer = load_tokenizer(base)
    with torch.inference_mode():
        for (text, _), row in zip(ROWS, scores, strict=True):
            wanted = tuned(**tokenizer(text, return_tensors="pt")).logits[0].numpy()
            np.testing.assert_allclose(row, wanted, atol=1e-5)
    config = json.loads((adapter / "adapter_config.json").read_text("utf-8"))
    config["base_model_name_or_path"] = "moved"
    (adapter / "adapter_config.json").write_text(json.dumps(config), "utf-8")
    message = refused(capsys, "classify", adapter, "fox")
    assert "the base 'moved' of adapter" in message and "--base" in message
    found = run(capsys, "evaluate", adapter, "--task", task, "--base", base)
    assert found["scores"]["accuracy"] > 0.6
    message = refused(capsys, "generate", adapter, "x", "--base", base)
    assert "is for sequence-classification, not a language model" in message
    (adapter / "labels.json").unlink()
    labelled = run(capsys, "classify", adapter, "fox", "--base", base)["texts"][0]["label"]
    assert labelled in ("negative", "positive")
    (adapter / "labels.json").write_text('["one"]', "utf-8")
    message = refused(capsys, "classify", adapter, "a", "--base", base)
    assert "list of the head's 2 labels" in message


def test_an_embedding_model(folder: Path, capsys: Printed) -> None:
    model = tiny_bert(folder / "embed", task="embedding")
    shown = run(capsys, "classify", model, "fox", "lamp")["texts"]
    assert [len(row["vector"]) for row in shown] == [64, 64]
    assert cli.main(["classify", str(model), "fox", "lamp"]) == 0
    assert "1.0000  fox" in capsys.readouterr().out
    other = tiny_bert(folder / "embed2", task="embedding", seed=5)
    near = run(capsys, "evaluate", model, "--against", model)["comparison"]
    far = run(capsys, "evaluate", model, "--against", other)["comparison"]
    assert near["cosine_min"] == pytest.approx(1) and far["cosine_mean"] < 0.9
    assert "--against OTHER" in refused(capsys, "evaluate", model)


def test_a_token_classifier_names_what_it_finds(folder: Path, capsys: Printed) -> None:
    labels = ("O", "B-X", "I-X")
    model = tiny_bert(folder / "tags", task="token-classification", labels=labels)
    rows = run(capsys, "classify", model, "Turn on the lamp")["texts"]
    for mention in rows[0]["mentions"]:
        assert mention["text"] == "Turn on the lamp"[mention["start"] : mention["end"]]
    spans = ((0, 2), (2, 4), (5, 7), (8, 9), (10, 12))
    logits = 9 * np.eye(3, dtype=np.float32)[[1, 0, 2, 0, 1]]
    found = mentions("Anna Bo a Cy", TokenScores(spans, logits), labels)
    assert [(m.text, m.label) for m in found] == [("Anna Bo", "X"), ("Cy", "X")]
    plain = mentions("Anna Bo a Cy", TokenScores(spans, logits), ("O", "N", "V"))
    assert [(m.text, m.label) for m in plain] == [("Anna", "N"), ("Bo", "V"), ("Cy", "N")]


def test_what_cannot_be_done_is_said(
    trained: Path, task: Path, folder: Path, capsys: Printed
) -> None:
    three = tiny_bert(folder / "three", labels=("a", "b", "c"))
    assert "does not have: 'off', 'on'" in refused(capsys, "evaluate", three, "--task", task)
    numbers = ["--task", task, "--map", "label=id"]
    assert "labels differ" in refused(capsys, "evaluate", trained, *numbers, "--against", three)
    assert "needs texts with labels" in refused(capsys, "evaluate", trained)
    assert "not a language model" in refused(capsys, "generate", trained, "x")
    assert "no classifier" in refused(capsys, "classify", "demo", "x")
    assert "is missing" in refused(capsys, "classify", trained, "--file", folder / "none.txt")
    bad = folder / "bad.jsonl"
    bad.write_text('{"text": "a", "label": "on"}\n{"text": "b"}\n', "utf-8")
    assert "line 2: lacks 'label'" in refused(capsys, "evaluate", trained, "--task", bad)
    headless = tiny_bert(folder / "headless", task="embedding")
    config = json.loads((headless / "config.json").read_text("utf-8"))
    config["architectures"] = ["BertForSequenceClassification"]
    (headless / "config.json").write_text(json.dumps(config), "utf-8")
    assert "lack classifier.bias" in refused(capsys, "classify", headless, "x")
    config["problem_type"] = "multi_label_classification"
    (headless / "config.json").write_text(json.dumps(config), "utf-8")
    assert "for multi label classification" in refused(capsys, "classify", headless, "x")
