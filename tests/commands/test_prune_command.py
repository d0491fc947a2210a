"""`edgeforge prune` from the command line."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from command_line import edgeforge
from tiny_models import tiny_llama

TEXT = "\n".join(f"The lamp number {n} is on and the fan of room {n} is off." for n in range(60))


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("prune")
    (folder / "text.txt").write_text(TEXT)
    return tiny_llama(folder / "llama", hidden=64, heads=4, kv_heads=2, ffn=256)


def prune(model: Path, out: Path, *more: object) -> dict[str, object]:
    text = model.parent / "text.txt"
    given = ("--model", model, "--text", text, "--out", out, "--calibration-tokens", 512, "--json")
    done = edgeforge("prune", *given, *more)
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)
    return found


def test_a_ratio_is_met_and_the_result_loads(model: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    found = prune(model, tmp_path, "--ratio", "0.15", "--candidates", "2")
    assert abs(float(str(found["ratio"])) - 0.15) <= 0.01
    network = AutoModelForCausalLM.from_pretrained(str(found["result"]))
    count = sum(p.numel() for p in network.parameters())
    assert count == found["parameters_after"]


def test_a_sweep_leaves_curve_and_recipe(model: Path, tmp_path: Path) -> None:
    from toolchain.recipe import read_recipe

    found = prune(model, tmp_path, "--sweep", "0.15,0.3", "--candidates", "1", "--no-recover")
    points = found["points"]
    assert isinstance(points, list) and [point["wanted"] for point in points] == [0.0, 0.15, 0.3]
    assert all(point["speed"] > 0 and point["size_bytes"] > 0 for point in points)
    assert Path(str(found["curve"])).is_file()
    assert read_recipe(str(found["recipe"])).prune.ratio == found["recommended"]


def test_a_dry_run_names_shapes_and_writes_nothing(model: Path, tmp_path: Path) -> None:
    found = prune(model, tmp_path / "out", "--ratio", "0.3", "--dry-run")
    assert found["shapes"]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--ratio", "0.95"), "ratio"),
        (("--ratio", "0.2", "--axes", "layers", "--snap", "none"), "the nearest that can"),
        (("--sweep", "0.1,1.5"), "give ratios"),
        (("--ratio", "0.2", "--parameters", "1000"), "give one of"),
    ],
)
def test_bad_input(model: Path, tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = edgeforge("prune", "--model", model, "--out", tmp_path / "out", *words)
    assert done.returncode == 2 and said in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "out" / "llama-pruned" / "pruned.yaml").exists()


def test_scores_that_overflow_are_one_error(model: Path, tmp_path: Path) -> None:
    """Weights that are numbers, and compute none."""
    import torch
    from safetensors.torch import load_file, save_file

    broken = tmp_path / "broken"
    shutil.copytree(model, broken)
    weights = load_file(broken / "model.safetensors")
    for part in ("up", "down"):
        weights[f"model.layers.1.mlp.{part}_proj.weight"].fill_(torch.finfo(torch.float32).max)
    save_file(weights, broken / "model.safetensors", metadata={"format": "pt"})
    given = ("--model", broken, "--text", model.parent / "text.txt", "--out", tmp_path / "out")
    done = edgeforge("prune", *given, "--ratio", "0.15", "--calibration-tokens", 512)
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert done.stderr.count("error: ") == 1
    assert "activation scores of ffn are not numbers in layer 1" in done.stderr
    assert not list((tmp_path / "out").rglob("*.safetensors"))
