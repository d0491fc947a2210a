"""What the stage leaves: adapters and checkpoints that load, the same bytes wherever they were
made, and a clear word where training cannot go on."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_adapters import merged
from tiny_models import tiny_llama
from train_runs import class_rows, log_of, tune, write_data

from common.errors import UserError
from toolchain.compress.base_record import PLACE, read_record

pytestmark = pytest.mark.usefixtures("in_process")


def test_an_adapter_learns_merges_and_opens(base: Path, data: Path, tmp_path: Path) -> None:
    from toolchain.models import OpenOptions, open_model

    made = tune(base, data, tmp_path / "w", epochs=3, dora=True, rank_pattern={"q_proj": 2})
    assert made.format == "adapter"
    assert {"adapter_config.json", "tokenizer.json", "loss_curve.svg"} <= set(made.files)
    facts = made.measurements
    assert facts["final_train_loss"] < facts["first_train_loss"]
    assert 0 < facts["trainable_share"] < 0.2
    assert facts["steps"] == facts["planned_steps"] == 12
    record = read_record(made.path)
    assert record is not None and record.quantization is None
    result = merged(base, made.path, tmp_path / "merged", verify=True)
    assert result.measurements["verification"]["status"] == "passed"
    assert result.measurements["base_proven"]
    with open_model(str(made.path), OpenOptions()) as model:
        assert model.kind == "adapter"
        assert len(model.runtime.generate(model.runtime.tokenize("lamp"), 4).token_ids) <= 4


def test_bytes_do_not_depend_on_places(base: Path, data: Path, tmp_path: Path) -> None:
    first = tune(base, data, tmp_path / "w")
    shutil.copytree(base, tmp_path / "elsewhere" / "base")
    shutil.copytree(data, tmp_path / "elsewhere" / "rows")
    second = tune(tmp_path / "elsewhere/base", tmp_path / "elsewhere/rows", tmp_path / "v")
    assert first.digest == second.digest
    assert first.path.name == second.path.name  # the key is the same too
    assert PLACE not in first.files and (first.path / PLACE).is_file()
    assert not [n for n in first.files if str(tmp_path).encode() in first.file(n).read_bytes()]
    board = tmp_path / "w" / "tensorboard" / first.path.name
    assert list(board.glob("events.out.tfevents.*"))
    assert not list((tmp_path / "w" / ".stages").glob(".*.resume"))  # checkpoints are gone


def test_the_best_step_is_kept_and_patience_ends_a_run(
    base: Path, data: Path, tmp_path: Path
) -> None:
    settings = {"epochs": 8, "method": "full", "learning_rate": 0.05, "warmup_ratio": 0}
    made = tune(base, data, tmp_path / "w", early_stopping_patience=2, **settings)
    losses = {e["step"]: e["eval_loss"] for e in log_of(made) if "eval_loss" in e}
    best = min(losses, key=lambda step: losses[step])
    assert made.measurements["kept_step"] == best < max(losses)
    assert made.measurements["early_stopped"]
    assert made.measurements["steps"] == max(losses) < made.measurements["planned_steps"]
    last = tune(base, data, tmp_path / "w", early_stopping_patience=2, keep="last", **settings)
    assert last.measurements["kept_step"] == max(losses)
    assert last.files["model.safetensors"] != made.files["model.safetensors"]


def test_nf4_base(base: Path, data: Path, tmp_path: Path) -> None:
    pytest.importorskip("bitsandbytes")
    made = tune(base, data, tmp_path / "w", epochs=2, quantization="nf4")
    record = read_record(made.path)
    assert record is not None and record.quantization == "nf4"
    assert made.measurements["final_train_loss"] < made.measurements["first_train_loss"]
    plain = tune(base, data, tmp_path / "w", max_steps=1)
    assert 0 < abs(log_of(made)[0]["loss"] - log_of(plain)[0]["loss"]) < 0.1
    out = merged(base, made.path, tmp_path / "merged", verify=True)
    assert out.measurements["quantization_in_training"] == "nf4"


def test_full_training_leaves_a_whole_checkpoint(data: Path, tmp_path: Path) -> None:
    from toolchain.checkpoint.inspect import inspect

    narrow = tiny_llama(tmp_path / "narrow", hidden=64, ffn=96, dtype="bfloat16", tied=True)
    (narrow / "LICENSE").write_text("Apache-2.0\n")
    (narrow / "edgeforge").mkdir()
    (narrow / "edgeforge" / "task.jsonl").write_text('{"messages": []}\n')
    made = tune(narrow, data, tmp_path / "w", epochs=2, method="full")
    assert made.format == "hf"
    assert made.measurements["trainable_share"] == 1
    before, after = inspect(narrow), inspect(made.path)
    assert {t.name: (t.shape, t.dtype) for t in after.tensors} == {
        t.name: (t.shape, t.dtype) for t in before.tensors
    }
    assert after.faults == () and after.tied_embeddings
    for name in ("config.json", "LICENSE", "edgeforge/task.jsonl", "tokenizer.json"):
        assert made.file(name).read_bytes() == (narrow / name).read_bytes()
    assert made.measurements["final_train_loss"] < made.measurements["first_train_loss"]


def test_a_classifier_gets_its_head_and_figures(encoder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    data = write_data(tmp_path / "d", train=class_rows(40), validation=class_rows(6))
    made = tune(encoder, data, tmp_path / "w", method="full", epochs=6, learning_rate=3e-3)
    assert made.measurements["validation_accuracy"] == 1
    assert made.measurements["validation_macro_f1"] == 1
    assert any("new one is trained" in warning for warning in made.measurements["warnings"])
    model = AutoModelForSequenceClassification.from_pretrained(made.path).eval()
    tokenizer = AutoTokenizer.from_pretrained(made.path)
    for row in class_rows(4):
        answer = int(model(**tokenizer(row["text"], return_tensors="pt")).logits.argmax())
        assert model.config.id2label[answer] == row["label"]
    assert json.loads(made.file("config.json").read_text())["use_cache"] is True
    lora = tune(encoder, data, tmp_path / "w", epochs=6, learning_rate=1e-2)
    assert lora.format == "adapter"
    assert json.loads(lora.file("labels.json").read_text()) == ["cold", "warm"]
    assert lora.measurements["validation_accuracy"] == 1


def test_texts_without_a_label_are_left_to_a_teacher(encoder: Path, tmp_path: Path) -> None:
    rows = {"train": class_rows(8), "unlabelled": [{"text": "cold lamp"}, {"text": "warm fan"}]}
    data = write_data(tmp_path / "d", **rows)
    made = tune(encoder, data, tmp_path / "w", method="full", max_steps=1)
    assert made.measurements["train_examples"] == 8
    told = [one for one in made.measurements["warnings"] if "without a label" in one]
    assert told == [
        "2 texts without a label are left out here: a teacher can judge them (edgeforge distill)"
    ]


def test_divergence_ends_the_run_and_keeps_the_last_good_checkpoint(
    base: Path, data: Path, tmp_path: Path
) -> None:
    wild = {"method": "full", "learning_rate": 1e30, "warmup_ratio": 0, "saves_per_epoch": 100}
    with pytest.raises(UserError) as caught:
        tune(base, data, tmp_path / "w", **wild)
    assert "diverged" in caught.value.problem
    assert "a lower learning_rate than 1e+30" in caught.value.mend
    assert "kept (step 1)" in caught.value.mend
    assert list((tmp_path / "w/.stages").glob(".*.resume/checkpoints/checkpoint-1/complete.json"))
    assert not [p for p in (tmp_path / "w/.stages").iterdir() if not p.name.startswith(".")]


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"target_modules": ("q_projection",)}, "q_projection.*(?s:.*)q_proj, k_proj"),
        ({"modules_to_save": ("head",)}, "modules_to_save names 'head'"),
        ({"max_tokens": 100_000}, "exceeds the model's context: 512"),
        ({"max_tokens": 8}, "no answer fits into 8"),
    ],
)
def test_settings_that_do_not_fit_the_model(
    settings: dict[str, Any], told: str, base: Path, data: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=told):
        tune(base, data, tmp_path / "w", **settings)


def test_data_and_model_must_be_of_one_kind(base: Path, encoder: Path, tmp_path: Path) -> None:
    labelled = write_data(tmp_path / "labelled", train=class_rows(4))
    texts = write_data(tmp_path / "texts", train=[{"text": "lamp and fox"}])
    with pytest.raises(UserError, match="have labels, but LlamaForCausalLM writes text"):
        tune(base, labelled, tmp_path / "w")
    with pytest.raises(UserError, match="BertModel does not write"):
        tune(encoder, texts, tmp_path / "w")


def test_chat_rows_need_a_template(data: Path, tmp_path: Path) -> None:
    bare = tiny_llama(tmp_path / "bare", hidden=64, ffn=96, chat_template=False)
    with pytest.raises(UserError, match="no chat template"):
        tune(bare, data, tmp_path / "w")


def test_a_tokenizer_without_padding_trains(base: Path, tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(base, bare)
    path = bare / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    del settings["pad_token"]
    path.write_text(json.dumps(settings))
    rows = [{"text": "lamp " * n} for n in range(1, 7)]
    made = tune(bare, write_data(tmp_path / "d", train=rows), tmp_path / "w", packing=False)
    assert made.measurements["validation_loss"] is None
    assert any("no validation rows" in warning for warning in made.measurements["warnings"])


def test_too_little_memory_is_said_before_work(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("toolchain.hf.free_memory_bytes", lambda: 100_000_000)
    with pytest.raises(UserError, match=r"not enough memory to train: about 1\.0 GB needed"):
        tune(base, data, tmp_path / "w", method="full")
