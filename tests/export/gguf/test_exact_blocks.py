"""What was trained in blocks is what the exported file holds, bit by bit."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from pathlib import Path

import numpy
import pytest
import torch
from tiny_models import tiny_llama

from common.errors import UserError
from runtimes.ggml_blocks import quantize_rows
from runtimes.gguf_file import open_tensors, read_metadata
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.compress.exact.rounding import settle_blocks
from toolchain.compress.exact.settings import ExactPlan
from toolchain.compress.exact.sidecar import FILE, is_exact, read_exact, read_plan, write_exact
from toolchain.compress.exact.types import block_types
from toolchain.export.gguf import convert, quantize
from toolchain.export.gguf.exact_blocks import write_blocks
from toolchain.stage import Input


@dataclass(frozen=True)
class _Made:
    checkpoint: Artifact
    converted: Artifact
    plan: ExactPlan


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> _Made:
    """A checkpoint whose weights are values of Q4_K_M's blocks, and its F32 file."""
    from transformers import AutoModelForCausalLM

    root = tmp_path_factory.mktemp("exact")
    base = tiny_llama(root / "base", ffn=256, tied=True)
    network = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plan = ExactPlan(
        quantization="Q4_K_M",
        types=block_types(inspect(base), network, "Q4_K_M", tensor_types={"attn_k": "Q8_0"}),
        tensor_types={"attn_k": "Q8_0"},
    )
    folder = shutil.copytree(base, root / "trained")
    exact = settle_blocks(network, plan)
    network.save_pretrained(folder)
    write_exact(folder, exact)
    checkpoint = artifacts.describe(folder, format="hf", stage="distill")
    (root / "f32").mkdir()
    converted = convert.run(checkpoint, convert.Config(model_name="tiny"), root / "f32")
    return _Made(checkpoint, converted, plan)


def test_types_are_those_of_the_mix(made: _Made) -> None:
    types = made.plan.types
    assert len(types) == 2 * 7 + 1 and types["model.embed_tokens.weight"] == "Q6_K"
    assert types["model.layers.0.self_attn.q_proj.weight"] == "Q4_K"
    assert types["model.layers.0.self_attn.k_proj.weight"] == "Q8_0"
    assert read_plan(made.checkpoint.path) == made.plan and is_exact(made.checkpoint.path)


def test_the_file_holds_the_trained_blocks(made: _Made, tmp_path: Path) -> None:
    out, plain = tmp_path / "exact", tmp_path / "plain"
    out.mkdir(), plain.mkdir()
    config = quantize.Config(quantization="Q4_K_M", tensor_types={"attn_k": "Q8_0"})
    exact = config.model_copy(update={"exact": Input.of_artifact(made.checkpoint)})
    file = quantize.run(made.converted, exact, out).only(".gguf")
    other = quantize.run(made.converted, config, plain).only(".gguf")
    assert read_metadata(file) == read_metadata(other)
    blocks = read_exact(made.checkpoint.path).blocks
    names = {"blk.1.ffn_down.weight": "model.layers.1.mlp.down_proj.weight",
             "token_embd.weight": "model.embed_tokens.weight"}  # fmt: skip
    for name, trained in names.items():
        assert numpy.array_equal(_bytes(file, name), blocks[trained]), name
    # The converter permutes the rows of query and key.
    query = blocks["model.layers.0.self_attn.q_proj.weight"]
    mine = _bytes(file, "blk.0.attn_q.weight")
    assert not numpy.array_equal(mine, query)
    assert sorted(map(bytes, mine)) == sorted(map(bytes, query))
    again = [n for n in open_tensors(file) if not numpy.array_equal(*_both(file, other, n))]
    assert again, "K-quants of the values are other blocks, so the trained ones must be kept"


def test_what_was_not_trained_stops_the_export(made: _Made, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    config = quantize.Config(quantization="Q4_K_M", tensor_types={"attn_k": "Q8_0"})
    file = quantize.run(made.converted, config, out).only(".gguf")
    source, exact = made.converted.only(".gguf"), read_exact(made.checkpoint.path)
    name = "model.layers.1.mlp.up_proj.weight"
    other = numpy.random.default_rng(0).normal(0, 0.02, (256, 256)).astype(numpy.float32)
    changed = {**exact.blocks, name: quantize_rows(other, "Q4_K")}
    with pytest.raises(UserError, match=r"row 0 of blk.1.ffn_up.weight \(Q4_K\) is none of its"):
        write_blocks(source, file, replace(exact, blocks=changed))
    with pytest.raises(UserError, match="is Q6_K in the unquantized file"):
        write_blocks(file, file, exact)


def test_a_damaged_sidecar_is_refused(made: _Made, tmp_path: Path) -> None:
    assert read_plan(tmp_path) is None
    path = tmp_path / FILE
    path.parent.mkdir()
    data = (made.checkpoint.path / FILE).read_bytes()
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(UserError, match="is damaged"):
        read_exact(tmp_path)


def test_other_forms_of_weights_are_refused(made: _Made) -> None:
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(made.checkpoint.path)
    layer = network.model.layers[0].self_attn
    layer.q_proj = torch.nn.Conv1d(256, 256, 1)  # its weight is no matrix of (rows, columns)
    with pytest.raises(UserError, match=r"layers.0.self_attn.q_proj.weight .* in another form"):
        block_types(inspect(made.checkpoint.path), network, "Q4_0")


def _bytes(file: Path, name: str) -> numpy.ndarray:
    data = open_tensors(file)[name].data
    return numpy.asarray(data).reshape(len(data), -1).view(numpy.uint8)


def _both(a: Path, b: Path, name: str) -> tuple[numpy.ndarray, numpy.ndarray]:
    return _bytes(a, name), _bytes(b, name)
