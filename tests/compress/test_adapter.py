"""Adapters that cannot be merged are refused by name, with what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_adapters import merged, trained_adapter
from tiny_models import tiny_llama

from common.errors import UserError
from toolchain.compress.adapter import read_adapter


@pytest.fixture(scope="module")
def lora(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("adapters") / "lora"
    trained_adapter(base, folder)
    return folder


@pytest.fixture
def copy(lora: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lora, tmp_path / "adapter"))


def change(folder: Path, **settings: Any) -> None:
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **settings}))


def test_reads_modules_and_scaling(lora: Path) -> None:
    adapter = read_adapter(lora)
    assert len(adapter.modules) == 14
    assert not adapter.replaced
    layer = adapter.modules["model.layers.1.mlp.down_proj"]
    assert (layer.down.shape, layer.up.shape, layer.scaling) == ((4, 96), (64, 4), 2.0)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"peft_type": "IA3"}, "type 'IA3'"),
        ({"trainable_token_indices": [1, 2]}, "single trainable tokens"),
        ({"alora_invocation_tokens": [5]}, "activated LoRA"),
        ({"target_parameters": ["experts.w"]}, "fused experts"),
        ({"init_lora_weights": "pissa"}, "changes the base's weights"),
        ({"from_the_future": 3}, "from_the_future"),
        ({"rank_pattern": {"(": 2}}, "no regular expression"),
        ({"r": 0}, "no rank"),
        ({"lora_alpha": "8"}, "no number"),
        ({"r": 5}, "should have rank 5"),
        ({"use_dora": True}, "lacks lora_magnitude_vector"),
    ],
)
def test_settings_that_cannot_be_merged(settings: dict[str, Any], said: str, copy: Path) -> None:
    change(copy, **settings)
    with pytest.raises(UserError, match=said):
        read_adapter(copy)


def test_another_kind_made_by_peft(base: Path, tmp_path: Path) -> None:
    from peft import IA3Config, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    get_peft_model(model, IA3Config(task_type="CAUSAL_LM")).save_pretrained(tmp_path / "ia3")
    with pytest.raises(UserError, match="IA3") as error:
        read_adapter(tmp_path / "ia3")
    assert "LoRA and DoRA" in error.value.mend


def test_missing_truncated_and_pickled_files(copy: Path, base: Path) -> None:
    weights = copy / "adapter_model.safetensors"
    whole = weights.read_bytes()
    for size, said in ((len(whole) - 7, "truncated"), (40, "truncated"), (0, "empty")):
        weights.write_bytes(whole[:size])
        with pytest.raises(UserError, match=said):
            read_adapter(copy)
    weights.rename(copy / "adapter_model.bin")
    with pytest.raises(UserError, match="pickle"):
        read_adapter(copy)
    (copy / "adapter_model.bin").unlink()
    with pytest.raises(UserError, match=r"adapter_model\.safetensors is missing"):
        read_adapter(copy)
    with pytest.raises(UserError, match=r"no adapter_config\.json"):
        read_adapter(base)
    with pytest.raises(UserError, match="does not exist"):
        read_adapter(copy / "nowhere")


def test_half_a_pair_is_named(copy: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = copy / "adapter_model.safetensors"
    tensors = load_file(path)
    gone = next(name for name in tensors if name.endswith("q_proj.lora_B.weight"))
    del tensors[gone]
    save_file(tensors, path)
    with pytest.raises(UserError, match="q_proj lacks lora_B"):
        read_adapter(copy)


def test_adapter_of_another_size_or_architecture(copy: Path, tmp_path: Path) -> None:
    wider = tiny_llama(tmp_path / "wider", hidden=128, ffn=96)
    with pytest.raises(UserError, match="does not fit wider") as error:
        merged(wider, copy, tmp_path / "out", force=True)
    assert "64" in error.value.details[0] and "128" in error.value.details[0]
    shallow = tiny_llama(tmp_path / "shallow", hidden=64, ffn=96, layers=1)
    with pytest.raises(UserError, match="7 of its 14 parts") as error:
        merged(shallow, copy, tmp_path / "out2", force=True)
    assert "the base has no such tensor" in error.value.details[0]


def test_damaged_record_of_the_base(copy: Path) -> None:
    (copy / "edgeforge_base.json").write_text('{"base_digest": 3}')
    with pytest.raises(UserError, match=r"edgeforge_base\.json is damaged"):
        read_adapter(copy)
