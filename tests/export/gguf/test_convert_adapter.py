"""An adapter that stays separate: base plus adapter in llama.cpp are peft's own model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_adapters import logits, trained_adapter
from tiny_models import tiny_llama

from common.errors import UserError
from runtimes.llama import LlamaModel
from toolchain.artifact import Artifact
from toolchain.checkpoint.intake import open_checkpoint
from toolchain.export.gguf import convert, convert_adapter
from toolchain.export.gguf.convert_adapter import adapter_artifact
from toolchain.stage import Input


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("base") / "base", hidden=64, ffn=96)


@pytest.fixture(scope="module")
def converted(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    source, _ = open_checkpoint(base, None)
    out = tmp_path_factory.mktemp("gguf")
    return convert.run(source, convert.Config(model_name="tiny"), out).only(".gguf")


def _converted(base: Path, folder: Path, out: Path) -> Artifact:
    adapter, _ = adapter_artifact(folder)
    source, _ = open_checkpoint(base, None)
    out.mkdir()
    config = convert_adapter.Config(checkpoint=Input.of_artifact(source))
    return convert_adapter.run(adapter, config, out)


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True, "r": 9}], ids=["lora", "rslora"])
def test_logits_are_those_of_peft(
    base: Path, converted: Path, tmp_path: Path, settings: dict[str, Any]
) -> None:
    wanted = logits(trained_adapter(base, tmp_path / "adapter", **settings))[0].numpy()
    made = _converted(base, tmp_path / "adapter", tmp_path / "out")
    with LlamaModel(converted, context_tokens=64, exact=True, adapter=made.only(".gguf")) as model:
        found = model.logits(range(3, 35))
    with LlamaModel(converted, context_tokens=64, exact=True) as model:
        plain = model.logits(range(3, 35))
    assert np.abs(found - wanted).max() < 1e-4
    assert np.abs(plain - wanted).max() > 0.1
    assert made.measurements["layers"] > 0


@pytest.mark.parametrize(
    ("settings", "reason"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"modules_to_save": ["lm_head"]}, "whole trained tensors"),
        ({"alpha_pattern": {"q_proj": 3}}, "scaled differently"),
    ],
)
def test_what_only_a_merge_can_carry_is_refused(
    base: Path, tmp_path: Path, settings: dict[str, Any], reason: str
) -> None:
    trained_adapter(base, tmp_path / "adapter", **settings)
    with pytest.raises(UserError, match=reason) as caught:
        adapter_artifact(tmp_path / "adapter")
    assert "merge it instead" in caught.value.mend


def test_adapter_of_a_classifier_is_refused(base: Path, tmp_path: Path) -> None:
    trained_adapter(base, tmp_path / "adapter")
    path = tmp_path / "adapter" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "task_type": "SEQ_CLS"}))
    with pytest.raises(UserError, match="trained for SEQ_CLS"):
        adapter_artifact(tmp_path / "adapter")


def test_adapter_of_another_base_is_refused_on_loading(
    base: Path, converted: Path, tmp_path: Path
) -> None:
    other = tiny_llama(tmp_path / "other", hidden=32, ffn=48)
    trained_adapter(other, tmp_path / "adapter")
    made = _converted(other, tmp_path / "adapter", tmp_path / "out")
    with pytest.raises(UserError, match="cannot load the adapter") as caught:
        LlamaModel(converted, context_tokens=64, adapter=made.only(".gguf"))
    assert "this very base" in caught.value.mend
