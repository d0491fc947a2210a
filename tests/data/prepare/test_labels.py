"""Classification data: labels as texts, every label in train, contradictions counted."""

from __future__ import annotations

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_bert

from common.errors import UserError
from toolchain.data.prepare.labels import label_text, require_labels, spread
from toolchain.data.prepare.prepare import Settings, prepare
from toolchain.data.prepare.split import Assigner, position
from toolchain.data.prepare.text_identity import digest

WORDS = ("lamp", "fox", "kitchen", "café", "灯", "空调", "dog", "four", "bits", "hounds")


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def settings(path: Path, **changes: Any) -> Settings:
    folder = path.parent
    return Settings(**{"inputs": (path,), "out": folder / "out", "cache": folder / "c", **changes})


def rows_of(out: Path, split: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / f"{split}.jsonl").read_text("utf-8").splitlines()]


@pytest.mark.parametrize(
    ("value", "text"),
    [(1, "1"), (2.0, "2"), (True, "true"), (" good ", "good"), (None, None), ("", None)],
)
def test_labels_as_text(value: object, text: str | None) -> None:
    assert label_text(value) == text


@pytest.mark.parametrize("value", [0.5, float("nan"), ["a"], {"a": 1}])
def test_what_is_no_label(value: object) -> None:
    with pytest.raises(ValueError, match="is no label"):
        label_text(value)


def test_text_and_label_are_classification_and_names_can_be_mapped(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": n % 2, "label_name": "ab"[n % 2]} for n in range(40)]
    path = write(tmp_path / "a.jsonl", rows)
    report = prepare(settings(path))
    assert report["inputs"][0]["format"] == "classification"
    assert set(report["labels"]) == {"0", "1"}
    report = prepare(settings(path, mapping={"label": "label_name"}))
    out = tmp_path / "out"
    counts = {s: Counter(r["label"] for r in rows_of(out, s)) for s in report["splits"]}
    assert report["labels"] == {
        label: {split: counts[split][label] for split in counts} for label in "ab"
    }
    assert rows_of(out, "train")[0].keys() == {"text", "label"}
    assert "| a | " in (out / "report.md").read_text("utf-8")
    assert prepare(settings(path, form="text"))["labels"] is None


def test_every_label_is_in_train_and_where_it_can_be_in_every_split(tmp_path: Path) -> None:
    rows = [{"text": f"{n} of label {n % 30}", "label": f"l{n % 30}"} for n in range(90)]
    rows += [{"text": f"lonely {n}", "label": f"one{n}"} for n in range(20)]
    rows += [{"text": f"first of two {n}{m}", "label": f"two{n}"} for n in range(5) for m in "ab"]
    report = prepare(settings(write(tmp_path / "a.jsonl", rows), ratios=(0.4, 0.3, 0.3)))
    for label, counts in report["labels"].items():
        assert counts["train"] > 0
        if label.startswith("l"):
            assert sorted(counts.values()) == [1, 1, 1]
        elif label.startswith("two"):
            assert sorted(counts.values()) == [0, 1, 1]
    assert report == prepare(settings(tmp_path / "a.jsonl", ratios=(0.4, 0.3, 0.3)))


def test_a_text_with_several_pairs_stays_in_one_split_and_train_has_all(tmp_path: Path) -> None:
    chance = random.Random(0)
    rows = [
        {"text": f"premise {n // 3}", "text_pair": f"pair {n}", "label": chance.choice("abcdefgh")}
        for n in range(60)
    ]
    report = prepare(settings(write(tmp_path / "a.jsonl", rows), ratios=(0.2, 0.4, 0.4)))
    assert all(counts["train"] > 0 for counts in report["labels"].values())
    premises = [{row["text"] for row in rows_of(tmp_path / "out", s)} for s in report["splits"]]
    assert sum(map(len, premises)) == 20
    assert rows_of(tmp_path / "out", "test")[0].keys() == {"text", "text_pair", "label"}


def test_spread_ends_when_prompts_are_shared() -> None:
    prompts = [digest([str(n)]) for n in range(12)]
    assigner: Assigner | None = Assigner((0.2, 0.4, 0.4), 0)
    labels = {f"l{n}": (prompts[n % 12], prompts[(n * 5 + 1) % 12]) for n in range(24)}
    passes = 0
    while assigner is not None:
        current, passes = assigner, passes + 1
        found = {
            label: {
                name: [p for p in mine if current.split_of(p) == name]
                for name in ("train", "validation", "test")
            }
            for label, mine in labels.items()
        }
        assigner = spread(current, found)
    assert passes < 10
    assert all(found[label]["train"] for label in labels)


def test_nothing_moves_where_all_is_well() -> None:
    ratios = (0.5, 0.25, 0.25)
    prompts = sorted((digest([str(n)]) for n in range(400)), key=lambda p: position(p, 0))
    found = {
        label: {"train": prompts[at : at + 2], "validation": prompts[at + 200 : at + 202],
                "test": prompts[at + 300 : at + 302]}
        for label, at in (("a", 0), ("b", 10))
    }  # fmt: skip
    assert spread(Assigner(ratios, 0), found) is None


def test_duplicates_and_contradictions(tmp_path: Path) -> None:
    rows = [{"text": f"text {n}", "label": n % 2} for n in range(10)]
    rows += [{"text": "TEXT  0", "label": 0}, {"text": "Text 1", "label": 0}]
    rows += [{"text": "text 2", "text_pair": "a pair", "label": 1}]
    rows += [{"text": "", "label": 1}, {"text": "no label", "label": None}]
    report = prepare(settings(write(tmp_path / "a.jsonl", rows)))
    names = ("kept", "duplicate", "conflicting", "empty", "unlabelled")
    assert [report[f"rows_{name}"] for name in names] == [11, 1, 1, 1, 1]
    assert report["conflicts"] == ["a.jsonl line 12: '0' here, '1' before"]
    kept = [row for s in report["splits"] for row in rows_of(tmp_path / "out", s)]
    assert [row["label"] for row in kept if row["text"].lower() == "text 1"] == ["1"]
    assert "a.jsonl line 12" in (tmp_path / "out" / "report.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([{"text": "a", "label": 0.5}], "line 1: 'label': 0.5 is no label"),
        ([{"text": "a", "label": ["x"]}], "list is no label"),
        ([{"text": 7, "label": "x"}], "'text' is int, not text"),
        ([{"text": f"{n}", "label": "x"} for n in range(9)], "every row has the same label: 'x'"),
        ([{"text": f"{n}", "label": n} for n in range(99)], "has a label of its own"),
        ([{"text": f"{n}", "label": "Xx"[n % 2]} for n in range(9)], "differ in case"),
        ([{"text": f"{n}", "label": n} for n in range(2)], "2 rows are too few for every label"),
    ],
)
def test_bad_labels(tmp_path: Path, rows: list[dict[str, Any]], reason: str) -> None:
    path = write(tmp_path / "a.jsonl", rows)
    with pytest.raises(UserError) as fault:
        prepare(settings(path))
    assert reason in str(fault.value)
    assert not (tmp_path / "out").exists()


def test_labels_do_not_mix_with_conversations(tmp_path: Path) -> None:
    labelled = write(tmp_path / "a.jsonl", [{"text": str(n), "label": n % 2} for n in range(20)])
    asked = write(tmp_path / "b.jsonl", [{"question": "a", "answer": "b"}])
    with pytest.raises(UserError, match="different tasks: classification, qa"):
        prepare(settings(labelled, inputs=(labelled, asked)))


def test_near_labels_are_named() -> None:
    with pytest.raises(UserError, match="'POS' and 'pos'"):
        require_labels({"pos": {}, "POS": {}, "neg": {}}, 9)


def test_lengths_of_an_encoder_without_chat_template(tmp_path: Path) -> None:
    from toolchain.hf import load_tokenizer

    model = tiny_bert(tmp_path / "bert")
    rows = [
        {"text": " ".join(WORDS[:n]), "text_pair": "lamp " * m, "label": n % 2}
        for n in range(1, 9)
        for m in (0, 60)
    ]
    path = write(tmp_path / "a.jsonl", rows)
    report = prepare(settings(path, ratios=(1.0, 0.0, 0.0), model=model, max_tokens=64))
    tokenizer = load_tokenizer(model)
    lengths = [
        len(tokenizer(row["text"], row.get("text_pair"))["input_ids"])
        for row in rows_of(tmp_path / "out", "train")
    ]
    found = report["splits"]["train"]
    assert (found["tokens"]["min"], found["tokens"]["total"]) == (min(lengths), sum(lengths))
    assert found["truncated"] == sum(length > 64 for length in lengths) == 7
