"""The stage on real checkpoints: zeros in the files, kept by merge and training, and its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tiny_adapters import merged, state, trained_adapter
from tiny_models import SENTENCES
from train_runs import chat_rows, tune, write_data

from common.errors import UserError
from toolchain.artifact import Artifact
from toolchain.checkpoint.intake import open_checkpoint
from toolchain.compress.prune.calibration import read_batches
from toolchain.compress.prune.measure import divergence, reference
from toolchain.compress.sparse import stage
from toolchain.compress.sparse.settings import Sparsify
from toolchain.pipeline import Workspace, run_stage
from toolchain.stage import Input

DEMO = Path(__file__).parents[3] / "toolchain/assets/demo-model"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "text.txt"
    path.write_text("\n<|document|>\n".join(SENTENCES * 30), encoding="utf-8")
    return path


def sparsified(base: Path, text: Path, root: Path, **settings: Any) -> Artifact:
    source, _ = open_checkpoint(base, None)
    small = {"calibration_tokens": 2048, **settings}
    config = stage.Config(text=Input.of_file(text), settings=Sparsify(**small))
    return run_stage(stage, source, config, Workspace(root), lambda _line: None)


def in_layers(folder: Path) -> dict[str, Any]:
    return {k: v for k, v in state(folder).items() if "_proj.weight" in k}


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_pattern_in_the_file(method: str, base: Path, text: Path, tmp_path: Path) -> None:
    made = sparsified(base, text, tmp_path, method=method, pattern="2:4")
    for name, weight in in_layers(made.path).items():
        assert ((weight.reshape(-1, 4) == 0).sum(1) == 2).all(), name
    outside = "model.embed_tokens.weight"
    assert state(made.path)[outside].equal(state(base)[outside])
    assert made.measurements["zero_share"] == 0.5
    assert any("neither the file nor decoding" in note for note in made.measurements["notes"])


def test_gradual_schedule_and_bfloat16(text: Path, tmp_path: Path) -> None:
    from tiny_models import tiny_llama

    base = tiny_llama(tmp_path / "base", hidden=64, ffn=96, dtype="bfloat16")
    made = sparsified(base, text, tmp_path / "out", sparsity=0.6, schedule_steps=3)
    assert len(made.measurements["passes"]) == 3
    assert made.measurements["zero_share"] == pytest.approx(0.6, abs=0.005)
    assert not list(made.path.glob(".pass*"))


def test_global_scope_differs_by_tensor(base: Path, text: Path, tmp_path: Path) -> None:
    made = sparsified(base, text, tmp_path, method="magnitude", scope="global")
    shares = [float((w == 0).double().mean()) for w in in_layers(made.path).values()]
    assert made.measurements["zero_share"] == pytest.approx(0.5, abs=1e-4)
    assert max(shares) - min(shares) > 0.001


def test_sparsegpt_is_nearest_on_the_trained_demo_model(tmp_path: Path) -> None:
    text = DEMO / "edgeforge/calibration.jsonl"
    held = reference(DEMO, read_batches(DEMO / "edgeforge/evaluation.jsonl", DEMO, 2048, 0))
    klds = {
        method: divergence(
            sparsified(DEMO, text, tmp_path / method, method=method, calibration_tokens=8192).path,
            held,
        )
        for method in ("magnitude", "wanda", "sparsegpt")
    }
    assert klds["sparsegpt"] < 0.9 * min(klds["wanda"], klds["magnitude"]), klds


def test_zeros_survive_merge(base: Path, text: Path, tmp_path: Path) -> None:
    sparse = sparsified(base, text, tmp_path / "sparse", pattern="2:4", method="wanda").path
    trained_adapter(sparse, tmp_path / "adapter")
    made = merged(sparse, tmp_path / "adapter", tmp_path / "merged", dtype="float16")
    before, after = in_layers(sparse), in_layers(made.path)
    for name, weight in before.items():
        assert (after[name][weight == 0] == 0).all()
        assert not after[name][weight != 0].equal(weight[weight != 0])
    assert made.measurements["zeros_kept"] == sum(int((w == 0).sum()) for w in before.values())


def test_zeros_go_when_they_need_not_be_kept(base: Path, text: Path, tmp_path: Path) -> None:
    sparse = sparsified(base, text, tmp_path / "s", method="magnitude", keep_masks=False).path
    trained_adapter(sparse, tmp_path / "adapter")
    made = merged(sparse, tmp_path / "adapter", tmp_path / "merged")
    assert made.measurements["zeros_kept"] == 0
    assert not any((weight == 0).float().mean() > 0.01 for weight in in_layers(made.path).values())


def test_zeros_survive_training_of_all_weights(base: Path, text: Path, tmp_path: Path) -> None:
    sparse = sparsified(base, text, tmp_path / "sparse", method="magnitude").path
    data = write_data(tmp_path / "data", train=chat_rows(8))
    folder = tune(sparse, data, tmp_path / "out", method="full").path
    for name, weight in in_layers(sparse).items():
        after = in_layers(folder)[name]
        assert (after[weight == 0] == 0).all()
        assert not after.equal(weight)
    assert json.loads((folder / "sparsity.json").read_text())["keep_masks"]


def test_the_masked_adapter_computes_what_merging_leaves(
    base: Path, text: Path, tmp_path: Path
) -> None:
    import torch
    from tiny_adapters import logits
    from transformers import AutoModelForCausalLM

    from toolchain.compress.sparse.record import kept_tensors
    from toolchain.compress.sparse.training import mask_adapter

    sparse = sparsified(base, text, tmp_path / "sparse", method="magnitude").path
    tuned = trained_adapter(sparse, tmp_path / "adapter")
    assert mask_adapter(tuned, kept_tensors(sparse)) == len(in_layers(sparse))
    made = merged(sparse, tmp_path / "adapter", tmp_path / "merged")
    plain = AutoModelForCausalLM.from_pretrained(made.path, dtype=torch.float32)
    torch.testing.assert_close(logits(tuned), logits(plain), rtol=1e-4, atol=1e-4)


def test_bad_pattern_for_the_rows(text: Path, tmp_path: Path) -> None:
    from tiny_models import tiny_llama

    base = tiny_llama(tmp_path / "base", hidden=64, ffn=90)
    with pytest.raises(UserError, match=r"rows of .*down_proj.weight have 90 weights"):
        sparsified(base, text, tmp_path / "out", pattern="2:4")


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_overflow_and_short_text(method: str, base: Path, text: Path, tmp_path: Path) -> None:
    import shutil

    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(base, tmp_path / "broken")
    tensors = load_file(broken / "model.safetensors")
    tensors["model.layers.1.mlp.up_proj.weight"].fill_(3e38)
    save_file(tensors, broken / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError, match="not a number"):
        sparsified(broken, text, tmp_path / "out", method=method)
    short = tmp_path / "short.txt"
    short.write_text("Too short.", encoding="utf-8")
    with pytest.raises(UserError, match="too few"):
        sparsified(base, short, tmp_path / "short", method=method)


def test_damaged_record(base: Path, tmp_path: Path) -> None:
    from toolchain.compress.sparse.record import RECORD, read_record

    (tmp_path / RECORD).write_text('{"tensors": 3}', encoding="utf-8")
    with pytest.raises(UserError, match="damaged"):
        read_record(tmp_path)
