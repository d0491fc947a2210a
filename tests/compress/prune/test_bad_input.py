"""What cannot be pruned is told in one clear error, before anything is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_encoders import as_source
from tiny_families import calibration, tiny_decoder, tiny_encoder

from common.errors import UserError
from toolchain.checkpoint.inspect import inspect
from toolchain.compress.prune import stage
from toolchain.compress.prune.candidates import find_candidates
from toolchain.compress.prune.layout import find_layout
from toolchain.compress.prune.settings import Prune
from toolchain.stage import Input


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_decoder(tmp_path / "base", "llama")


def _prune(source: Path, text: Path, **settings: object) -> UserError:
    """The error, and the proof that no weights were written."""
    out_dir = source.parent / "out"
    out_dir.mkdir(exist_ok=True)
    wanted = Prune.model_validate({"snap": "none", "calibration_tokens": 512, **settings})
    with pytest.raises(UserError) as caught:
        stage.run(
            as_source(source), stage.Config(text=Input.of_file(text), settings=wanted), out_dir
        )
    assert not (out_dir / "artifact.json").exists()
    assert not list(out_dir.glob("*.safetensors"))
    assert caught.value.mend
    return caught.value


@pytest.mark.parametrize("ratio", [-0.1, 0.95])
def test_a_ratio_outside_the_range(ratio: float) -> None:
    with pytest.raises(ValueError, match=r"0\.9|greater than or equal to 0"):
        Prune(ratio=ratio)


def test_a_ratio_that_no_shape_meets_names_the_nearest(base: Path, tmp_path: Path) -> None:
    error = _prune(base, calibration(tmp_path / "c.txt"), ratio=0.85, axes=("ffn",))
    assert "0.8500" in error.problem
    assert "the nearest that can: 0." in error.mend


def test_the_nearest_shape_where_that_will_do(base: Path) -> None:
    info = inspect(base)
    wanted = {"ratio": 0.85, "axes": ("ffn",), "snap": "none", "nearest": True}
    choices = find_candidates(info, find_layout(info), Prune.model_validate(wanted))
    (only,) = choices.found
    assert only.shape.ffn == 1 and 0 < only.ratio < 0.85
    assert f"the nearest is {only.ratio:.4f}" in choices.notes[-1]
    with pytest.raises(ValueError, match="nearest goes with ratio"):
        Prune(parameters=1000, nearest=True)


def test_an_unknown_architecture_says_how_to_add_it(base: Path, tmp_path: Path) -> None:
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps({**config, "model_type": "mamba"}))
    error = _prune(base, calibration(tmp_path / "c.txt"))
    assert "'mamba'" in error.problem
    assert "layouts/" in error.mend


def test_a_short_calibration_text(base: Path, tmp_path: Path) -> None:
    error = _prune(base, calibration(tmp_path / "c.txt", documents=2), axes=("ffn",))
    assert "too few" in error.problem


def test_widths_per_layer(base: Path, tmp_path: Path) -> None:
    weights = load_file(base / "model.safetensors")
    name = "model.layers.1.mlp.{}_proj.{}".format
    for part in ("gate", "up"):
        for kind in ("weight", "bias"):
            weights[name(part, kind)] = weights[name(part, kind)][:64].contiguous()
    weights[name("down", "weight")] = weights[name("down", "weight")][:, :64].contiguous()
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    assert "widths per layer" in _prune(base, calibration(tmp_path / "c.txt")).problem


@pytest.mark.parametrize("score", ["activation", "magnitude", "random"])
def test_weights_that_are_not_numbers(base: Path, tmp_path: Path, score: str) -> None:
    weights = load_file(base / "model.safetensors")
    weights["model.layers.2.mlp.up_proj.weight"][3, 3] = torch.nan
    save_file(weights, base / "model.safetensors", metadata={"format": "pt"})
    error = _prune(base, calibration(tmp_path / "c.txt"), axes=("ffn",), score=score,
                   layer_score="random" if score == "random" else "block-influence")  # fmt: skip
    assert "not numbers" in error.problem


def test_a_width_that_transformers_refuses_is_no_candidate(tmp_path: Path) -> None:
    """Llama wants a hidden width that is a multiple of the number of heads."""
    info = inspect(tiny_decoder(tmp_path / "base", "llama", num_attention_heads=16,
                                num_key_value_heads=8, head_dim=4))  # fmt: skip
    settings = Prune(ratio=0.3, axes=("layers", "groups", "ffn"), snap="none")
    found = find_candidates(info, find_layout(info), settings).found
    assert {64 % (2 * one.shape.groups) for one in found} == {0}


def test_phi3_cuts_heads_and_width_together(tmp_path: Path) -> None:
    info = inspect(tiny_decoder(tmp_path / "base", "phi3"))
    settings = Prune(ratio=0.6, axes=("groups", "hidden", "ffn"), snap="none")
    found = find_candidates(info, find_layout(info), settings).found
    assert found
    assert all(one.shape.width("heads") == one.shape.hidden for one in found)


def test_axes_that_an_encoder_has_not_are_left_out_with_a_note(tmp_path: Path) -> None:
    info = inspect(tiny_encoder(tmp_path / "bert", "bert"))
    found = find_candidates(info, find_layout(info), Prune(ratio=0.2, snap="none"))
    assert found.notes == ("groups cannot be cut in this architecture and stay",)
    with pytest.raises(UserError, match="groups cannot be cut"):
        find_candidates(info, find_layout(info), Prune(ratio=0.2, axes=("groups",)))
