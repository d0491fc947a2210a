"""Moved scales: the same function, rounded with less loss where inputs have outliers."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_families import calibration, tiny_decoder
from tiny_models import tiny_llama
from transformers import AutoModelForCausalLM

from common.errors import UserError
from toolchain.artifact import Artifact
from toolchain.checkpoint.intake import open_checkpoint
from toolchain.compress.awq import stage
from toolchain.compress.awq.search import Channels, best_scales
from toolchain.compress.awq.settings import Awq
from toolchain.compress.prune.layout import _layouts
from toolchain.pipeline import Workspace, run_stage
from toolchain.stage import Input


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return calibration(tmp_path_factory.mktemp("texts") / "text.txt")


def scaled(base: Path, text: Path, root: Path, **settings: Any) -> Artifact:
    source, _ = open_checkpoint(base, None)
    own = {"calibration_tokens": 512, "steps": 4, **settings}
    config = stage.Config(text=Input.of_file(text), settings=Awq(**own))
    return run_stage(stage, source, config, Workspace(root), lambda _line: None)


def logits(checkpoint: Path) -> torch.Tensor:
    network = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    with torch.no_grad():
        found: torch.Tensor = network(torch.arange(5, 45)[None]).logits
    return found


def outliers(base: Path) -> None:
    """Some channels of each norm become large, and what reads them small, as large models have."""
    tensors = load_file(base / "model.safetensors")
    for name, value in tensors.items():
        if name.endswith("layernorm.weight"):
            value[5::32] *= 30
    save_file(tensors, base / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma2", "phi3"])
def test_the_function_stays_and_every_place_is_searched(
    family: str, text: Path, tmp_path: Path
) -> None:
    base = tiny_decoder(tmp_path / "base", family)
    outliers(base)
    made = scaled(base, text, tmp_path)
    assert made.measurements["places"] == 4 * 4  # of each layer
    assert made.measurements["scaled_places"] > 0
    before, after = logits(base), logits(made.path)
    assert float((before - after).abs().max()) < 2e-4 * float(before.abs().max())
    old = load_file(base / "model.safetensors")
    new = load_file(made.path / "model.safetensors")
    assert set(old) == set(new) and {value.dtype for value in new.values()} == {torch.float32}
    assert any(not torch.equal(old[name].float(), new[name]) for name in old)
    assert json.loads((made.path / "config.json").read_text())["dtype"] == "float32"


def test_outliers_are_rounded_with_less_loss(text: Path, tmp_path: Path) -> None:
    plain, rough = (tiny_llama(tmp_path / name, hidden=64, ffn=96) for name in ("plain", "rough"))
    outliers(rough)
    ratio = {
        base.name: scaled(base, text, tmp_path / f"{base.name}-w").measurements[
            "output_error_ratio"
        ]
        for base in (plain, rough)
    }
    assert ratio["rough"] < 0.9 * ratio["plain"] <= 0.9


def test_columns_that_read_one_channel_share_its_scale() -> None:
    channels = Channels(4, repeats=2, run=2)  # two groups of two heads, two wide
    values = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert channels.columns(values).tolist() == [1, 2, 1, 2, 3, 4, 3, 4]
    assert torch.equal(channels.shared(channels.columns(values)), values)


def test_an_input_that_is_always_zero_blows_nothing_up() -> None:
    weight = torch.randn(8, 32, generator=torch.Generator().manual_seed(0))
    moments = torch.diag(torch.cat([torch.zeros(8), torch.logspace(0, 3, 24)]))
    found = best_scales([weight], ["Q4_0"], moments, Channels(32), steps=4)
    assert bool(torch.isfinite(found.values).all()) and found.loss_after <= found.loss_before


def test_layouts_name_places_that_they_have() -> None:
    for layout in _layouts().values():
        for source, readers in layout.folds.items():
            assert f"{source}.weight" in layout.layer_tensors
            assert all(f"{reader}.weight" in layout.layer_tensors for reader in readers)


def test_bad_input(text: Path, tmp_path: Path) -> None:
    base = tiny_llama(tmp_path / "base", hidden=64, ffn=96)
    with pytest.raises(UserError, match=r"awq.quantization: F16 has no blocks"):
        scaled(base, text, tmp_path, quantization="F16")
    with pytest.raises(UserError, match="unknown"):
        scaled(base, text, tmp_path, quantization="Q4_9")
    assert not list((tmp_path / ".stages").glob("awq-*"))
