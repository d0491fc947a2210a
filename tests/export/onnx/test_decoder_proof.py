"""From export to proof: both kinds of graph against torch, INT8 against FP32, smoothing, genai."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from runtimes.cpu_int8 import int8_support
from runtimes.genai import GenaiModel
from runtimes.protocol import Runtime
from toolchain.artifact import Artifact
from toolchain.evaluate import onnx_parity, onnx_quality
from toolchain.evaluate.gate import ParityError
from toolchain.export.onnx import quantize, smooth
from toolchain.export.onnx.graph_file import GRAPH, load_graph, save_graph
from toolchain.export.onnx.smooth_graph import find_folds
from toolchain.models import OpenOptions, open_model
from toolchain.stage import Input

PROMPTS = ("The lamp", "Turn on the light in the kitchen, please.", "把客厅的灯打开",
           "The lamp", "On lamp?")  # fmt: skip


def parity(source: Artifact, checkpoint: Path, evaluation: Path, out: Path) -> Artifact:
    out.mkdir()
    config = onnx_parity.Config(
        checkpoint=Input(digest="checkpoint", path=checkpoint),
        evaluation=Input.of_file(evaluation),
        context_tokens=96,
        max_tokens=150,
    )
    return onnx_parity.run(source, config, out)


def int8(source: Artifact, out: Path, variant: str) -> Artifact:
    out.mkdir()
    return quantize.run(source, quantize.Config(variant=variant), out)


@pytest.mark.parametrize("kind", ["built", "traced"])
def test_every_graph_is_proven_and_its_int8_measured(
    kind: str, request: pytest.FixtureRequest, evaluation: Path, tmp_path: Path
) -> None:
    source: Artifact = request.getfixturevalue(kind)
    name = "checkpoint" if kind == "built" else "narrow_checkpoint"
    checkpoint: Path = request.getfixturevalue(name)
    proof = parity(source, checkpoint, evaluation, tmp_path / "proof")
    assert all(gate["passed"] for gate in proof.measurements["gates"])
    assert proof.measurements["gates"][0]["name"] == "logits max abs difference"
    assert proof.measurements["logits"]["max_abs_diff"] < 1e-4
    small = int8(source, tmp_path / "int8", "int8-mixed")
    (tmp_path / "quality").mkdir()
    config = onnx_quality.Config(reference=Input.of_artifact(proof))
    figures = onnx_quality.run(small, config, tmp_path / "quality").measurements
    assert 1e-9 < figures["kld_mean"] < 1e-2 and figures["positions"] == 150
    assert figures["size_bytes"] < source.measurements["size_bytes"]
    assert {"kld_p99", "top1_agreement", "perplexity", "reference_perplexity"} <= set(figures)


def test_another_models_weights_fail_the_proof(
    built: Artifact, checkpoint: Path, evaluation: Path, tmp_path: Path
) -> None:
    from onnx import numpy_helper

    folder = tmp_path / "changed"
    shutil.copytree(built.path, folder)
    model = load_graph(folder / GRAPH)
    tensor = next(t for t in model.graph.initializer if t.name.endswith("o_proj.MatMul.weight"))
    tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor) * 1.5, tensor.name))
    save_graph(model, folder, 10**9)
    with pytest.raises(ParityError, match="logits max abs difference"):
        parity(Artifact(folder, "onnx", {}, "x"), checkpoint, evaluation, tmp_path / "proof")


@pytest.mark.parametrize("kind", ["built", "traced"])
def test_batches_streams_and_single_prompts_agree(
    kind: str, request: pytest.FixtureRequest
) -> None:
    source: Artifact = request.getfixturevalue(kind)
    with open_model(str(source.path), OpenOptions(context_tokens=128, parallel=3)) as model:
        assert model.kind == "onnx" and isinstance(model.runtime, Runtime)
        prompts = [model.runtime.tokenize(text) for text in PROMPTS]
        together = model.runtime.generate_many(prompts, 12, [])
        for prompt, made in zip(prompts, together, strict=True):
            alone = model.runtime.generate(prompt, 12, [])
            assert alone.token_ids == made.token_ids and len(made.token_ids) == 12
            assert list(model.stream(prompt, 12, [])) == list(made.token_ids)
            rows = model.runtime.logits([*prompt, *made.token_ids[:-1]])[len(prompt) - 1 :]
            assert [int(row.argmax()) for row in rows] == list(made.token_ids)
        stop = together[0].token_ids[3]
        ended = model.runtime.generate(prompts[0], 12, [stop])
        assert ended.stopped and stop not in ended.token_ids
        with pytest.raises(UserError, match="do not fit the context of 128"):
            model.runtime.logits([1] * 129)


def test_genai_gives_the_same_tokens(built: Artifact, tmp_path: Path) -> None:
    for source in (built, int8(built, tmp_path / "int8", "int8-mixed")):
        with open_model(str(source.path), OpenOptions(context_tokens=64)) as model:
            prompt = model.runtime.tokenize(PROMPTS[1])
            expected = model.runtime.generate(prompt, 8, []).token_ids
        with GenaiModel(source.path, threads=1) as genai:
            made = genai.generate(prompt, 8)
        assert made.token_ids == expected[: len(made.token_ids)] and made.token_ids
    (tmp_path / "int8" / GRAPH).unlink()
    with pytest.raises(UserError, match=r"model\.onnx is missing"):
        GenaiModel(tmp_path / "int8")


def test_smoothing_tames_outlier_channels(
    built: Artifact, evaluation: Path, tmp_path: Path
) -> None:
    """Four channels of each norm are made 60 times as large and their weights as much smaller:
    the same function, which per-tensor activations cannot hold in 8 bits."""
    from onnx import numpy_helper

    folder = tmp_path / "outliers"
    shutil.copytree(built.path, folder)
    model = load_graph(folder / GRAPH)
    tensors = {tensor.name: tensor for tensor in model.graph.initializer}
    factor = np.ones(64, np.float32)
    factor[[3, 17, 40, 55]] = 60
    for fold in find_folds(model):
        if fold.vectors and not any("lm_head" in name for name in fold.consumers):
            for name in fold.vectors:
                values = numpy_helper.to_array(tensors[name]) * factor
                tensors[name].CopyFrom(numpy_helper.from_array(values, name))
            for name in fold.consumers:
                values = numpy_helper.to_array(tensors[name]) / factor[:, None]
                tensors[name].CopyFrom(numpy_helper.from_array(values, name))
    save_graph(model, folder, 10**9)
    source = Artifact(folder, "onnx", built.files, "x")
    (tmp_path / "out").mkdir()
    config = smooth.Config(
        calibration=Input.of_file(evaluation),
        variant="int8-fast",
        reduce_range=int8_support().reduce_range,
        max_tokens=150,
    )
    figures = smooth.run(source, config, tmp_path / "out").measurements
    assert figures["applied"] and figures["folded"] >= 5
    assert figures["kld_after"] < figures["kld_before"] / 10


def test_calibration_that_is_missing(built: Artifact, evaluation: Path, tmp_path: Path) -> None:
    gone = Input(digest="x", path=tmp_path / "gone.txt")
    with pytest.raises(UserError, match=r"gone\.txt is missing"):
        smooth.run(built, smooth.Config(calibration=gone), tmp_path)
