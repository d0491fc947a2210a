"""The merged checkpoint against peft: the same weights, the same logits, loaded by transformers."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_adapters import logits, merged, state, trained_adapter

from common.errors import UserError
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.intake import open_checkpoint
from toolchain.compress.base_record import record_base

CASES: dict[str, dict[str, Any]] = {
    "lora": {},
    "one_module_bf16_adapter_alpha": {"target_modules": ["q_proj"], "lora_alpha": 3},
    "dora": {"use_dora": True},
    "rslora": {"use_rslora": True, "r": 8},
    "patterns": {
        "rank_pattern": {"q_proj": 8, r"layers\.1\.mlp\.down_proj": 2},
        "alpha_pattern": {"q_proj": 4, "layers.0.mlp.up_proj": 32},
    },
    "modules_to_save": {"modules_to_save": ["lm_head", "embed_tokens", "norm"]},
    "embedding": {"target_modules": ["embed_tokens", "v_proj", "lm_head"]},
    "embedding_dora": {"target_modules": ["embed_tokens", "v_proj"], "use_dora": True},
}


def assert_equal(found: dict[str, Any], wanted: dict[str, Any], *, rtol: float = 1e-5) -> None:
    import torch

    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        assert torch.allclose(found[name], value.float(), rtol=rtol, atol=1e-6), name


@pytest.mark.parametrize("case", CASES)
def test_weights_equal_those_of_peft(case: str, base: Path, tmp_path: Path) -> None:
    before = state(base)
    tuned = trained_adapter(base, tmp_path / "adapter", **CASES[case])
    merged(base, tmp_path / "adapter", tmp_path / "out")
    found = state(tmp_path / "out")
    assert_equal(found, tuned.merge_and_unload().state_dict())
    assert any(not before[name].equal(found[name]) for name in before)


def test_conv1d_with_biases_and_a_checkpoint_without_the_model_prefix(tmp_path: Path) -> None:
    """GPT-2 stores (in, out), its square projections too; `GPT2Model` has no `transformer.`"""
    import torch
    from tiny_models import tiny_tokenizer
    from transformers import GPT2Config, GPT2LMHeadModel

    folder = tmp_path / "gpt2"
    vocab = tiny_tokenizer(folder, 320)
    config = GPT2Config(vocab_size=vocab, n_embd=32, n_layer=2, n_head=2, n_positions=64,
                        bos_token_id=None, eos_token_id=2)  # fmt: skip
    torch.manual_seed(3)
    model = GPT2LMHeadModel(config)
    model.transformer.save_pretrained(folder)
    written = json.loads((folder / "config.json").read_text())
    written["architectures"] = ["GPT2LMHeadModel"]
    (folder / "config.json").write_text(json.dumps(written))
    for dora in (False, True):
        adapter = tmp_path / f"adapter-{dora}"
        tuned = trained_adapter(
            folder, adapter, target_modules=["c_attn", "c_proj", "c_fc"], bias="lora_only",
            use_dora=dora, fan_in_fan_out=True,
        )  # fmt: skip
        merged(folder, adapter, tmp_path / f"out-{dora}")
        assert_equal(state(tmp_path / f"out-{dora}"), tuned.merge_and_unload().state_dict())


def test_shards_keep_their_layout(base: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    sharded = tmp_path / "sharded"
    shutil.copytree(base, sharded)
    (sharded / "model.safetensors").unlink()
    AutoModelForCausalLM.from_pretrained(base).save_pretrained(sharded, max_shard_size="200KB")
    (sharded / "edgeforge").mkdir()
    (sharded / "edgeforge" / "task.jsonl").write_text('{"messages": []}\n')
    tuned = trained_adapter(sharded, tmp_path / "adapter")
    merged(sharded, tmp_path / "adapter", tmp_path / "out")
    assert_equal(state(tmp_path / "out"), tuned.merge_and_unload().state_dict())
    before, after = inspect(sharded), inspect(tmp_path / "out")
    assert len(before.weight_files) > 2
    layout = [(t.name, t.shape, t.dtype, t.file.name, t.offset) for t in before.tensors]
    assert [(t.name, t.shape, t.dtype, t.file.name, t.offset) for t in after.tensors] == layout
    index = "model.safetensors.index.json"
    maps = [json.loads((folder / index).read_text()) for folder in (sharded, tmp_path / "out")]
    assert maps[0]["weight_map"] == maps[1]["weight_map"]
    assert (tmp_path / "out/edgeforge/task.jsonl").is_file()
    assert (tmp_path / "out/tokenizer.json").is_file()


@pytest.mark.parametrize("dora", [False, True])
def test_bfloat16_base_is_rounded_once(dora: bool, base: Path, tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    narrow = tmp_path / "narrow"
    shutil.copytree(base, narrow)
    AutoModelForCausalLM.from_pretrained(base, dtype=torch.bfloat16).save_pretrained(narrow)
    tuned = trained_adapter(narrow, tmp_path / "adapter", use_dora=dora)
    out = merged(narrow, tmp_path / "adapter", tmp_path / "out", verify=True)
    assert {tensor.dtype for tensor in inspect(out.path).tensors} == {"BF16"}
    wanted = tuned.merge_and_unload().state_dict()
    # One rounding to 8 bits: half of 2^-8 of the value.
    assert_equal(state(out.path), wanted, rtol=2**-8)
    exact = sum(
        int((value == wanted[name].bfloat16().float()).sum())
        for name, value in state(out.path).items()
    )
    assert exact >= 0.999 * sum(value.numel() for value in wanted.values())
    proof = out.measurements["verification"]
    assert proof["status"] == "passed"
    assert proof["max_abs_diff"] < 1e-5 < proof["max_abs_diff_as_stored"]


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_dtype_of_the_result(dtype: str, base: Path, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file

    tuned = trained_adapter(base, tmp_path / "adapter").merge_and_unload().state_dict()
    merged(base, tmp_path / "adapter", tmp_path / "out", dtype=dtype)
    found = load_file(tmp_path / "out/model.safetensors")
    kind = getattr(torch, dtype)
    assert {value.dtype for value in found.values()} == {kind}
    assert json.loads((tmp_path / "out/config.json").read_text())["dtype"] == dtype
    # All but values on the edge of two roundings are those of torch's own cast.
    same = sum(int((value == tuned[name].to(kind)).sum()) for name, value in found.items())
    total = sum(value.numel() for value in found.values())
    close = all(
        torch.allclose(value.float(), tuned[name].to(kind).float(), rtol=2**-7, atol=1e-6)
        for name, value in found.items()
    )
    assert close and same >= (0.5 if dtype == "float32" else 0.995) * total


@pytest.mark.parametrize(
    "settings",
    [
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
        {"target_modules": ["q_proj"], "modules_to_save": ["lm_head"]},
        {"target_modules": ["q_proj", "lm_head"]},
        {"target_modules": ["q_proj", "embed_tokens"]},
    ],
)
def test_an_adapter_on_one_side_unties_embeddings(
    settings: dict[str, Any], tied_base: Path, tmp_path: Path
) -> None:
    from transformers import AutoModelForCausalLM

    tuned = trained_adapter(tied_base, tmp_path / "adapter", **settings)
    wanted = logits(tuned)
    out = merged(tied_base, tmp_path / "adapter", tmp_path / "out")
    assert out.measurements["untied_embeddings"]
    model = AutoModelForCausalLM.from_pretrained(out.path)
    weights = (model.get_input_embeddings().weight, model.get_output_embeddings().weight)
    assert not weights[0].equal(weights[1])
    assert float((logits(model) - wanted).abs().max()) < 1e-4


def test_tied_embeddings_stay_tied_when_the_layers_alone_change(
    tied_base: Path, tmp_path: Path
) -> None:
    trained_adapter(tied_base, tmp_path / "adapter")
    out = merged(tied_base, tmp_path / "adapter", tmp_path / "out", verify=True)
    assert out.measurements["verification"]["status"] == "passed"
    assert inspect(out.path).tied_embeddings
    names = [tensor.name for tensor in inspect(out.path).tensors]
    assert names == [tensor.name for tensor in inspect(tied_base).tensors]


def test_another_base_is_refused_unless_forced(base: Path, tied_base: Path, tmp_path: Path) -> None:
    trained_adapter(base, tmp_path / "adapter")
    source, _ = open_checkpoint(base, None)
    record_base(tmp_path / "adapter", source, "nf4")
    right = merged(base, tmp_path / "adapter", tmp_path / "right")
    assert right.measurements["base_proven"]
    assert right.measurements["quantization_in_training"] == "nf4"
    with pytest.raises(UserError, match="trained on another base: base"):
        merged(tied_base, tmp_path / "adapter", tmp_path / "out")
    forced = merged(tied_base, tmp_path / "adapter", tmp_path / "forced", force=True)
    assert not forced.measurements["base_proven"]
    assert "forced" in forced.measurements["warnings"][0]


def test_a_base_without_record_is_not_called_proven(base: Path, tmp_path: Path) -> None:
    trained_adapter(base, tmp_path / "adapter")
    out = merged(base, tmp_path / "adapter", tmp_path / "out")
    assert "cannot be proven" in out.measurements["warnings"][0]
    assert not out.measurements["base_proven"]


def test_companion_data_may_change_but_weights_not(base: Path, tmp_path: Path) -> None:
    shutil.copytree(base, tmp_path / "copy")
    trained_adapter(base, tmp_path / "adapter")
    record_base(tmp_path / "adapter", open_checkpoint(base, None)[0], None)
    (tmp_path / "copy" / "README.md").write_text("another text\n")
    out = merged(tmp_path / "copy", tmp_path / "adapter", tmp_path / "out")
    assert out.measurements["base_proven"] and not out.measurements["warnings"]


def test_nan_in_the_adapter_is_not_written(base: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    trained_adapter(base, tmp_path / "adapter")
    path = tmp_path / "adapter/adapter_model.safetensors"
    tensors = load_file(path)
    next(value for name, value in tensors.items() if "lora_B" in name)[0, 0] = float("nan")
    save_file(tensors, path)
    with pytest.raises(UserError, match="NaN"):
        merged(base, tmp_path / "adapter", tmp_path / "out")
