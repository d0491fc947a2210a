"""Widths per layer: the same number of parameters, torch and GGUF alike, refused elsewhere."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from compress.prune.cuts import make
from tiny_encoders import as_source
from tiny_families import calibration, tiny_decoder

from common.errors import UserError
from targets.registry import load_target
from toolchain.backend import choose_backend
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.validate import faults_of
from toolchain.compress.prune.layout import find_layout
from toolchain.compress.prune.per_layer import require_layout, spread
from toolchain.compress.prune.shape import read_shape
from toolchain.evaluate import parity
from toolchain.export.gguf import convert
from toolchain.layer_widths import NAMES
from toolchain.plan import model_shape
from toolchain.stage import Input

# Qwen2 has biases, which are ordered with the rotary pairs.
SIZES = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("per-layer")
    source = tiny_decoder(folder / "base", "qwen2", **SIZES)
    made = make(source, folder / "cut", {"groups": 2, "ffn": 48}, per_layer=True)
    assert inspect(made.path).parameters == made.candidate.parameters
    return made.path


def test_the_best_units_stay_and_none_is_empty() -> None:
    scores = [torch.tensor([9.0, 8, 7, 6]), torch.tensor([5.0, 1, 1, 1]), torch.zeros(4)]
    assert spread(scores, [0, 1, 2], 2, 1) == {0: 4, 1: 1, 2: 1}
    assert spread(scores, [0, 2], 2, 2) == {0: 2, 2: 2}
    assert spread(scores, [0, 1], 4, 2) == {0: 4, 1: 4}


def test_layers_differ_and_the_planner_knows(cut: Path) -> None:
    info = inspect(cut)
    widths = info.config["layer_widths"]
    assert len({*widths["intermediate_size"]}) > 1
    assert (
        sum(widths["intermediate_size"]) == 4 * 48 and sum(widths["num_key_value_heads"]) == 4 * 2
    )
    assert not faults_of(info)
    assert model_shape(info).kv_heads == tuple(widths["num_key_value_heads"])


def test_gguf_computes_what_torch_does(cut: Path, tmp_path: Path) -> None:
    """The parity stage raises otherwise."""
    checkpoint, text = as_source(cut), calibration(tmp_path / "text.txt")
    for name in ("gguf", "parity"):
        (tmp_path / name).mkdir()
    gguf = convert.run(checkpoint, convert.Config(model_name="cut"), tmp_path / "gguf")
    config = parity.Config(
        checkpoint=Input.of_artifact(checkpoint),
        evaluation=Input.of_file(text),
        max_tokens=128,
        context_tokens=64,
    )
    assert parity.run(gguf, config, tmp_path / "parity").measurements["gates"]


def test_what_cannot_take_it_says_so(cut: Path, tmp_path: Path) -> None:
    info = inspect(cut)
    with pytest.raises(UserError, match="already pruned with widths per layer"):
        read_shape(info, find_layout(info))
    with pytest.raises(UserError, match="no ONNX exporter"):
        choose_backend("onnx", "auto", load_target("jetson"), info)
    gemma = inspect(tiny_decoder(tmp_path / "gemma", "gemma2"))
    with pytest.raises(UserError, match="cannot have widths per layer"):
        require_layout(gemma, find_layout(gemma))


def test_widths_that_the_weights_have_not_are_a_fault(cut: Path, tmp_path: Path) -> None:
    for path in cut.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    config = json.loads((tmp_path / "config.json").read_text())
    config["layer_widths"][NAMES[2]] = config["layer_widths"][NAMES[2]][::-1]
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert "contradicts the weights" in str(faults_of(inspect(tmp_path))[0])
