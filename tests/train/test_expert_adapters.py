"""LoRA on a mixture of experts: attention learns, FFNs and experts stay."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_families import tiny_decoder

from toolchain.train.network import adapt
from toolchain.train.settings import Finetune


@pytest.mark.parametrize(
    ("family", "learns"),
    [
        ("mixtral", {"q_proj", "k_proj", "v_proj", "o_proj"}),
        ("deepseek-v2", {"kv_a_proj_with_mqa", "kv_b_proj", "o_proj"}),
    ],
)
def test_experts_stay_as_they_are(family: str, learns: set[str], tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    network = AutoModelForCausalLM.from_pretrained(tiny_decoder(tmp_path, family))
    adapted = adapt(network, "causal", Finetune(dropout=0.05))
    trained = [name for name, weight in adapted.named_parameters() if weight.requires_grad]
    assert trained and all(".lora_" in name for name in trained)
    parts = {name.split(".lora_")[0].rpartition(".")[2] for name in trained}
    assert learns <= parts and not parts & {"gate_proj", "up_proj", "down_proj"}
    assert not any("experts" in name or "lm_head" in name for name in trained)
