"""The stage on checkpoints: the result is its blocks, nearer than plain, exported bit by bit."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy
import pytest
from onnx import numpy_helper
from safetensors.numpy import load_file
from tiny_models import SENTENCES, tiny_llama

from common.errors import UserError
from runtimes.ggml_blocks import dequantize_rows
from runtimes.gguf_file import open_tensors
from targets.quantization import ONNX_OF_BLOCKS
from toolchain.artifact import Artifact
from toolchain.checkpoint.intake import open_checkpoint
from toolchain.compress.exact.sidecar import read_exact
from toolchain.compress.gptq import stage
from toolchain.compress.gptq.settings import Gptq
from toolchain.compress.prune.calibration import read_batches
from toolchain.compress.prune.measure import divergence, reference
from toolchain.export.gguf import convert, quantize
from toolchain.export.onnx import export as onnx_export
from toolchain.export.onnx import quantize as onnx_quantize
from toolchain.export.onnx.graph_file import GRAPH, load_graph
from toolchain.pipeline import Workspace, run_stage
from toolchain.stage import Input


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "text.txt"
    path.write_text("\n<|document|>\n".join(SENTENCES * 10), encoding="utf-8")
    return path


def rounded(base: Path, text: Path, root: Path, **settings: Any) -> Artifact:
    source, _ = open_checkpoint(base, None)
    own = {"calibration_tokens": 1024, **settings}
    more = {key: own.pop(key) for key in ("tensor_types", "layers_only") if key in own}
    config = stage.Config(text=Input.of_file(text), settings=Gptq(**own), **more)
    return run_stage(stage, source, config, Workspace(root), lambda _line: None)


def test_the_checkpoint_and_the_file_are_the_blocks(text: Path, tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", hidden=64, ffn=96, tied=True, dtype="bfloat16")
    made = rounded(base, text, tmp_path, tensor_types={"ffn_down": "Q5_1"})
    exact, weights = read_exact(made.path), load_file(made.path / "model.safetensors")
    types = exact.plan.types
    assert types["model.layers.1.mlp.down_proj.weight"] == "Q5_1"
    assert types["model.embed_tokens.weight"] == "Q8_0"  # rows of 64: Q6_K falls back
    assert set(types) == {name for name, values in weights.items() if values.ndim == 2}
    for name, kind in types.items():
        values = dequantize_rows(exact.blocks[name], kind, weights[name].shape[1])
        assert numpy.array_equal(values, weights[name]), name
    assert json.loads((made.path / "config.json").read_text())["dtype"] == "float32"
    assert made.measurements["rounded_tensors"] == 14 and made.measurements["nearest_tensors"] == 1
    assert not made.measurements["notes"]

    workspace = Workspace(tmp_path / "files")
    config = convert.Config(intermediate="f32", model_name="tiny")
    converted = run_stage(convert, made, config, workspace, lambda _line: None)
    wanted = quantize.Config(
        quantization="Q4_0",
        tensor_types=exact.plan.tensor_types,
        exact=Input.of_artifact(made),
    )
    file = run_stage(quantize, converted, wanted, workspace, lambda _line: None)
    assert file.measurements["exact_tensors"] == 15
    found = open_tensors(file.only(".gguf"))["blk.1.ffn_down.weight"]
    blocks = exact.blocks["model.layers.1.mlp.down_proj.weight"]
    assert found.tensor_type.name == "Q5_1" and numpy.array_equal(found.data, blocks)


@pytest.mark.parametrize(("kind", "variant"), ONNX_OF_BLOCKS.items())
def test_onnx_blocks_hold_the_very_values(
    kind: str, variant: str, text: Path, tmp_path: Path
) -> None:
    base = tiny_llama(tmp_path / "base", hidden=64, ffn=96)
    made = rounded(base, text, tmp_path, quantization=kind, layers_only=True)
    assert made.measurements["nearest_tensors"] == 0
    workspace = Workspace(tmp_path / "files")
    fp32 = run_stage(onnx_export, made, onnx_export.Config(), workspace, lambda _line: None)
    config = onnx_quantize.Config(variant=variant)
    file = run_stage(onnx_quantize, fp32, config, workspace, lambda _line: None)
    stored = {
        tensor.name: numpy_helper.to_array(tensor)
        for tensor in load_graph(file.path / GRAPH).graph.initializer
    }
    wanted = {
        (row + 0).tobytes()  # no negative zeros
        for name, weight in load_file(made.path / "model.safetensors").items()
        if "layers" in name and weight.ndim == 2
        for row in weight
    }
    mark = "_q4" if kind == "Q4_0" else "_q8"
    packed = [n for n in stored if n.endswith(mark) and "layers" in n]
    assert len(packed) >= 2 * 4
    for name in packed:
        codes = stored[name]
        if kind == "Q4_0":
            codes = numpy.stack([codes & 15, codes >> 4], -1).reshape(*codes.shape[:2], 32)
        zero = numpy.float32(8 if kind == "Q4_0" else 128)
        values = (codes.astype(numpy.float32) - zero) * stored[f"{name}_scales"][..., None]
        assert {(row + 0).tobytes() for row in values.reshape(len(values), -1)} <= wanted


def test_it_is_nearer_than_plain_rounding(text: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    from toolchain.compress.exact.rounding import settle_blocks

    base = tiny_llama(tmp_path / "base", hidden=64, ffn=96)
    network = AutoModelForCausalLM.from_pretrained(base, dtype="float32")
    for weight in network.parameters():
        weight.data *= 4 if weight.dim() > 1 else 1  # its logits vary enough to lose something
    network.save_pretrained(base)
    held = reference(base, read_batches(text, base, 1024, seed=1))
    made = rounded(base, text, tmp_path)
    settle_blocks(network, read_exact(made.path).plan)
    plain = Path(shutil.copytree(base, tmp_path / "plain"))
    network.save_pretrained(plain)
    assert divergence(made.path, held) < 0.8 * divergence(plain, held)


def test_what_cannot_be_done_is_refused_before_work(text: Path, tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", hidden=64, ffn=96)
    with pytest.raises(UserError, match="gptq: F16 has no blocks"):
        rounded(base, text, tmp_path / "a", quantization="F16")
    with pytest.raises(UserError, match="did you mean 'Q4_0'"):
        rounded(base, text, tmp_path / "b", quantization="Q4_00")
    record = {"tensors": ["model.layers.0.mlp.up_proj.weight"], "keep_masks": True, "pattern": None}
    (base / "sparsity.json").write_text(json.dumps(record), encoding="utf-8")
    with pytest.raises(UserError, match="leave gptq out"):
        rounded(base, text, tmp_path / "c")
    assert not list((tmp_path / "a").rglob("*.safetensors"))
