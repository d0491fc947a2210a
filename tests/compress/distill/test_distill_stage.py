"""The stage: a student comes nearer to its teacher, and bad pairs are refused before work."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from distillations import TEXTS, distil
from tiny_classifiers import ROWS, trained_classifier
from tiny_models import tiny_bert, tiny_llama
from train_runs import class_rows, log_of, write_data

from common.errors import UserError

pytestmark = pytest.mark.usefixtures("in_process")


def divergence(student: Path, teacher: Path) -> float:
    """Mean KLD over the validation texts."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher)
    networks = [AutoModelForCausalLM.from_pretrained(path).eval() for path in (teacher, student)]
    total = tokens = 0.0
    for text in TEXTS[12:]:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            p, q = (network(ids).logits[0].log_softmax(-1) for network in networks)
        total += float((p.exp() * (p - q)).sum())
        tokens += len(p)
    return total / tokens


def test_a_student_comes_nearer_to_its_teacher(
    student: Path, teacher: Path, texts: Path, tmp_path: Path
) -> None:
    made = distil(student, teacher, texts, tmp_path / "w", epochs=4, alpha=1.0, temperature=1.0)
    assert made.format == "hf" and made.stage == "distill"
    assert divergence(made.path, teacher) < 0.7 * divergence(student, teacher)
    facts = made.measurements
    assert facts["validation_loss"] == pytest.approx(facts["validation_loss_soft"], rel=1e-6)
    assert facts["teacher_parameters"] > facts["student_parameters"]
    # What validation says is what the result is, measured by itself.
    assert facts["validation_loss"] == pytest.approx(divergence(made.path, teacher), rel=0.25)
    log = log_of(made)
    assert all("loss_soft" in entry for entry in log if "loss" in entry)
    assert not any("loss_hard" in entry for entry in log if "loss" in entry)


def test_the_loss_is_that_of_the_step_however_it_is_split(
    student: Path, teacher: Path, texts: Path, tmp_path: Path
) -> None:
    """The mean is over the tokens of a step, not over its batches."""
    whole = distil(student, teacher, texts, tmp_path / "w", max_steps=1, batch_size=4)
    parts = distil(student, teacher, texts, tmp_path / "w", max_steps=1, batch_size=1, accumulate=4)
    first, second = log_of(whole)[0], log_of(parts)[0]
    for name in ("loss", "loss_soft", "loss_hard", "grad_norm"):
        assert second[name] == pytest.approx(first[name], rel=1e-4), name
    assert first["loss"] == pytest.approx(
        0.5 * first["loss_soft"] + 0.5 * first["loss_hard"], rel=1e-5
    )


def test_lora_gives_an_adapter(student: Path, teacher: Path, texts: Path, tmp_path: Path) -> None:
    made = distil(student, teacher, texts, tmp_path / "w", method="lora", lora_alpha=8, max_steps=1)
    assert made.format == "adapter"
    settings = json.loads(made.file("adapter_config.json").read_text())
    assert settings["lora_alpha"] == 8
    assert str(teacher) not in made.file("training_log.jsonl").read_text()
    assert made.config["settings"]["teacher"] is None


def test_a_classifier_learns_from_a_classifier(tmp_path: Path) -> None:
    """Classes are matched by name: the teacher's head has them in another order than the rows."""
    rows = [{"text": text, "label": label} for text, label in ROWS]
    data = write_data(tmp_path / "d", train=rows, validation=rows[::3])
    teacher = trained_classifier(tiny_bert(tmp_path / "large", labels=("on", "off")))
    small = tiny_bert(tmp_path / "small", task="embedding", hidden=32, layers=1, ffn=64, seed=5)
    made = distil(small, teacher, data, tmp_path / "w", alpha=1.0, epochs=10, batch_size=12)
    assert made.measurements["validation_accuracy"] == 1
    assert json.loads(made.file("config.json").read_text())["id2label"] == {"0": "off", "1": "on"}


def test_a_classifier_learns_from_texts_without_a_label(tmp_path: Path) -> None:
    """Two rows have labels, and they are wrong: what the student knows it has of the others."""
    rows = [{"text": text, "label": label} for text, label in ROWS]
    wrong = [
        {**row, "label": {"on": "off", "off": "on"}[row["label"]]}
        for row in (rows[0], next(row for row in rows if row["label"] != rows[0]["label"]))
    ]
    texts = [{"text": row["text"]} for row in rows]
    data = write_data(tmp_path / "d", train=wrong, validation=rows, unlabelled=texts)
    teacher = trained_classifier(tiny_bert(tmp_path / "large", labels=("on", "off")))
    small = tiny_bert(tmp_path / "small", task="embedding", hidden=32, layers=1, ffn=64, seed=5)
    made = distil(small, teacher, data, tmp_path / "w", alpha=0.1, epochs=20, batch_size=12)
    assert made.measurements["validation_accuracy"] == 1
    assert made.measurements["train_examples"] == len(texts) + 2


@pytest.mark.parametrize("quantization", ["nf4", "int8"])
def test_a_teacher_in_few_bits(
    quantization: str, student: Path, teacher: Path, texts: Path, tmp_path: Path
) -> None:
    pytest.importorskip("bitsandbytes")
    plain = distil(student, teacher, texts, tmp_path / "w", max_steps=1)
    few = distil(
        student, teacher, texts, tmp_path / "w", max_steps=1, teacher_quantization=quantization
    )
    exact, rounded = (log_of(made)[0]["loss_soft"] for made in (plain, few))
    assert 0 < abs(rounded - exact) < 0.1 * exact


def test_other_vocabularies_are_refused(student: Path, texts: Path, tmp_path: Path) -> None:
    other = tiny_llama(tmp_path / "other", hidden=64, ffn=96, vocab=300)
    with pytest.raises(UserError, match=r"different vocabularies \(300 and 320 tokens") as caught:
        distil(student, other, texts, tmp_path / "w")
    assert "universal" in caught.value.mend
    assert not (tmp_path / "w").exists() or not list((tmp_path / "w").rglob("job.json"))


def test_other_classes_are_refused(tmp_path: Path) -> None:
    data = write_data(tmp_path / "d", train=class_rows(4))
    bare = tiny_bert(tmp_path / "bare", task="embedding")
    other = tiny_bert(tmp_path / "other", task="embedding", seed=5)
    with pytest.raises(UserError, match="no classification head"):
        distil(bare, other, data, tmp_path / "w")
    colours = tiny_bert(tmp_path / "colours", labels=("red", "green"))
    with pytest.raises(UserError, match=r"red, green\) are not those of the rows \(cold, warm"):
        distil(bare, colours, data, tmp_path / "w")


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"temperature": 0}, "temperature.*greater than or equal to 0.1"),
        ({"temperature": float("inf")}, "temperature"),
        ({"alpha": 1.5}, "alpha.*less than or equal to 1"),
        ({"alpha": 0}, "nothing comes from the teacher"),
        ({"layer_map": [1]}, "layer_map needs"),
        ({"preset": "hot"}, "classic-t5"),
    ],
)
def test_settings_out_of_range(settings: dict[str, Any], told: str) -> None:
    from common.strict import parse
    from toolchain.compress.distill.settings import Distill

    with pytest.raises(UserError) as caught:
        parse(Distill, settings, "recipe")
    import re

    assert re.search(told, str(caught.value))


def test_presets_give_way_to_what_is_set() -> None:
    from toolchain.compress.distill.settings import Distill

    classic = Distill(preset="classic-t5")
    assert (classic.temperature, classic.alpha) == (5.0, 0.5)
    assert Distill(preset="classic-t2", temperature=3.0).temperature == 3.0
    assert Distill.model_validate(classic.model_dump(mode="json")) == classic
    assert classic.training.alpha == classic.lora_alpha == 16.0


def test_hidden_states_and_attentions_are_matched(
    student: Path, teacher: Path, texts: Path, tmp_path: Path
) -> None:
    """Projections lift the narrow student's states; they stay out of the result."""
    made = distil(
        student, teacher, texts, tmp_path / "w",
        epochs=2, hidden_weight=1.0, attention_weight=1000.0, layer_map=(1,),
    )  # fmt: skip
    log = [entry for entry in log_of(made) if "loss" in entry]
    assert log[-1]["loss_hidden"] < 0.9 * log[0]["loss_hidden"]
    mixed = 0.5 * log[0]["loss_soft"] + 0.5 * log[0]["loss_hard"]
    matched = log[0]["loss_hidden"] + 1000 * log[0]["loss_attention"]
    assert log[0]["loss"] == pytest.approx(mixed + matched, rel=1e-4)
    from toolchain.checkpoint.inspect import inspect

    assert {t.name for t in inspect(made.path).tensors} == {
        t.name for t in inspect(student).tensors
    }


def test_a_layer_map_must_fit(student: Path, teacher: Path, texts: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="layer_map 0, 5 does not fit: the student has 1 layers"):
        distil(student, teacher, texts, tmp_path / "w", hidden_weight=1.0, layer_map=(0, 5))


def test_nothing_is_learned_from_oneself(teacher: Path, texts: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="the same checkpoint"):
        distil(teacher, teacher, texts, tmp_path / "w")
