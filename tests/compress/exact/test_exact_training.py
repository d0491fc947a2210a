"""Training in blocks: the result is its blocks, loses less than the start, and bad input stops."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.numpy import load_file
from tiny_models import tiny_llama
from train_runs import WORDS, class_rows, log_of, write_data

from common.errors import UserError
from runtimes.ggml_blocks import dequantize_rows
from runtimes.ggml_codes import codes_of, with_codes
from toolchain.artifact import Artifact
from toolchain.checkpoint.intake import open_checkpoint
from toolchain.compress.distill import stage
from toolchain.compress.distill.settings import Distill
from toolchain.compress.exact.sidecar import read_exact
from toolchain.compress.gptq import stage as gptq
from toolchain.compress.gptq.settings import Gptq
from toolchain.pipeline import Workspace, run_stage
from toolchain.stage import Input
from toolchain.train.finetune import data_input
from toolchain.train.job import TrainJob

_TEXTS = [" ".join(WORDS[(n * s) % len(WORDS)] for n in range(1, 9)) for s in range(1, 17)]


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's own code in this process: its start takes longer than these trainings."""

    def run(_job_file: Path, job: TrainJob, _accelerate: Path | None) -> None:
        from toolchain.train.worker import train

        train(job)

    monkeypatch.setattr("toolchain.train.finetune.run_workers", run)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its logits vary enough that rounding to Q4_0 loses something."""
    folder = tiny_llama(
        tmp_path_factory.mktemp("exact") / "model", hidden=64, ffn=96, tied=True, dtype="bfloat16"
    )
    file = folder / "model.safetensors"
    from safetensors.torch import load_file as load
    from safetensors.torch import save_file

    save_file(
        {k: v * 4 if v.dim() > 1 else v for k, v in load(file).items()}, file, {"format": "pt"}
    )
    return folder


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"text": text} for text in _TEXTS]
    return write_data(tmp_path_factory.mktemp("texts") / "d", train=rows[:12], validation=rows[:12])


def _train(model: Path, data: Path, root: Path, **settings: Any) -> Artifact:
    source, _ = open_checkpoint(model, None)
    small = {"batch_size": 4, "learning_rate": 1e-3, "exact": "Q4_0", **settings}
    config = stage.Config(
        data=data_input(data), teacher=Input.of_artifact(source), settings=Distill(**small)
    )
    return run_stage(stage, source, config, Workspace(root), lambda _line: None)


@pytest.mark.usefixtures("in_process")
def test_the_result_is_its_blocks_and_loses_less(model: Path, texts: Path, tmp_path: Path) -> None:
    made = _train(model, texts, tmp_path / "w", epochs=6)
    losses = [entry["eval_loss"] for entry in log_of(made) if "eval_loss" in entry]
    assert made.measurements["exact"] == "Q4_0" and min(losses) < 0.5 * losses[0]
    exact = read_exact(made.path)
    types = exact.plan.types
    assert types["model.embed_tokens.weight"] == "Q8_0"  # rows of 64: Q6_K falls back
    weights = load_file(made.path / "model.safetensors")
    assert set(types) == {name for name, values in weights.items() if values.ndim == 2}
    for name, kind in types.items():
        values = dequantize_rows(exact.blocks[name], kind, weights[name].shape[1])
        assert numpy.array_equal(values, weights[name]), name
    # What validation says of the weights is what the checkpoint is.
    assert made.measurements["validation_loss"] == pytest.approx(
        _divergence(made.path, model), rel=1e-5
    )


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("kind", ["Q4_K_M", "Q4_0"])
def test_a_run_that_goes_on_gives_the_same_blocks(
    kind: str, model: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also between the steps at which slow types find their blocks anew, and where scales learn."""
    wide = {"exact": kind, "exact_every": 3, "max_steps": 7, "saves_per_epoch": 3}
    base = tiny_llama(tmp_path / "wide", hidden=256, ffn=256, layers=1)
    whole = _train(base, texts, tmp_path / "whole", **wide)

    from toolchain.compress.distill.trainer import DistillTrainer

    save = DistillTrainer._save_checkpoint

    def save_and_die(self: Any, network: Any, trial: Any) -> None:
        save(self, network, trial)
        if self.state.global_step == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(DistillTrainer, "_save_checkpoint", save_and_die)
    with pytest.raises(KeyboardInterrupt):
        _train(base, texts, tmp_path / "cut", **wide)
    monkeypatch.setattr(DistillTrainer, "_save_checkpoint", save)
    assert _train(base, texts, tmp_path / "cut", **wide).digest == whole.digest


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("scales", ["found", "learned"])
def test_training_from_calibrated_blocks_keeps_their_scales_or_learns_them(
    scales: str, model: Path, texts: Path, tmp_path: Path
) -> None:
    source, _ = open_checkpoint(model, None)
    calibration = tmp_path / "calibration.txt"
    calibration.write_text("\n<|document|>\n".join(_TEXTS * 10), encoding="utf-8")
    config = gptq.Config(text=Input.of_file(calibration), settings=Gptq())
    start = run_stage(gptq, source, config, Workspace(tmp_path / "s"), lambda _line: None)

    def train(begun: Artifact, **settings: Any) -> Artifact:
        own = {"exact": "Q4_0", "exact_start": "gptq", "exact_scales": scales}
        config = stage.Config(
            data=data_input(texts),
            teacher=Input.of_artifact(source),
            settings=Distill(**{**own, "batch_size": 4, "learning_rate": 1e-3, **settings}),
        )
        return run_stage(stage, begun, config, Workspace(tmp_path / "w"), lambda _line: None)

    made = train(start, epochs=3)
    before, after = read_exact(start.path), read_exact(made.path)
    assert after.plan.types == before.plan.types
    moved = 0
    for name, kind in after.plan.types.items():
        zeros = numpy.zeros_like(codes_of(after.blocks[name], kind))
        one, other = (with_codes(found.blocks[name], kind, zeros) for found in (before, after))
        assert numpy.array_equal(one, other) == (scales == "found"), name
        moved += int((before.blocks[name] != after.blocks[name]).sum())
    losses = [entry["eval_loss"] for entry in log_of(made) if "eval_loss" in entry]
    assert moved and min(losses) < losses[0]
    assert made.measurements["validation_loss"] == pytest.approx(
        _divergence(made.path, model), rel=1e-4
    )
    with pytest.raises(UserError, match="the student has no blocks"):
        train(source)
    with pytest.raises(UserError, match="the student has blocks of Q4_0"):
        train(start, exact="Q8_0")


def test_settings_that_make_no_sense() -> None:
    settings = Distill(exact="Q4_0")
    assert (settings.alpha, settings.temperature, settings.rate) == (1.0, 1.0, 1e-4)
    assert Distill(exact="Q4_0", alpha=0.7).alpha == 0.7
    for wrong, said in (
        ({"exact": "Q4_0", "method": "lora"}, "needs method full"),
        ({"exact": "Q4_0", "student": "x"}, "leave student out"),
        ({"exact_start": "gptq"}, "exact_start belongs to exact"),
        ({"exact_every": 2}, "exact_every belongs to exact"),
        ({"exact_scales": "found"}, "exact_scales belongs to exact"),
    ):
        with pytest.raises(ValueError, match=said):
            Distill.model_validate(wrong)


def test_what_has_no_blocks_is_refused_before_work(
    model: Path, texts: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match="F16 has no blocks"):
        _train(model, texts, tmp_path / "a", exact="F16")
    with pytest.raises(UserError, match="did you mean 'Q4_0'"):
        _train(model, texts, tmp_path / "b", exact="Q4_00")
    sparse = Path(shutil.copytree(model, tmp_path / "sparse"))
    record = {"tensors": ["model.layers.0.mlp.up_proj.weight"], "keep_masks": True, "pattern": None}
    (sparse / "sparsity.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match="zeros are to be kept"):
        _train(sparse, texts, tmp_path / "c")
    rows = class_rows(6)
    labelled = write_data(tmp_path / "rows", train=rows, validation=rows)
    with pytest.raises(UserError):
        _train(model, labelled, tmp_path / "d")


def _divergence(student: Path, teacher: Path) -> float:
    """Mean KLD over the validation texts."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher)
    p_network, q_network = (
        AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
        for path in (teacher, student)
    )
    total = tokens = 0.0
    for text in _TEXTS[:12]:
        ids = tokenizer(text, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            p, q = (n(ids).logits[0, :-1].log_softmax(-1) for n in (p_network, q_network))
        total += float((p.exp() * (p - q)).sum())
        tokens += len(p)
    return total / tokens
