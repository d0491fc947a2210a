"""A checkpoint with widths per layer is trained and merged like any other, and stays what it is."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from compress.prune.cuts import make
from tiny_adapters import logits, merged
from tiny_families import tiny_decoder
from train_runs import tune

from toolchain.checkpoint.inspect import inspect
from toolchain.compress.prune.answers import open_network
from toolchain.layer_widths import layer_widths

SIZES = {"num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 8}


@pytest.mark.usefixtures("in_process")
def test_an_adapter_is_trained_and_merged(tmp_path: Path, data: Path) -> None:
    source = tiny_decoder(tmp_path / "base", "llama", **SIZES)
    cut = make(source, tmp_path / "cut", {"groups": 2, "ffn": 48}, per_layer=True).path
    before = inspect(cut)
    adapter = tune(cut, data, tmp_path / "tuned", rank=4, learning_rate=1e-2)
    counted = adapter.measurements["trainable_parameters"]
    share = adapter.measurements["trainable_share"]
    assert counted / share == pytest.approx(before.parameters + counted, rel=1e-3)
    made = merged(cut, adapter.path, tmp_path / "merged", verify=True)
    after = inspect(made.path)
    assert layer_widths(after.config) == layer_widths(before.config)
    assert after.parameters == before.parameters
    found = []
    for folder in (cut, made.path):
        with open_network(folder) as network:
            found.append(logits(network))
    assert not torch.allclose(*found, atol=1e-3)
    assert json.loads((made.path / "config.json").read_text())["architectures"]
