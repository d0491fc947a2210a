"""Adapters made by peft itself, with random weights in every trained tensor."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolchain.artifact import Artifact
from toolchain.checkpoint.intake import open_checkpoint
from toolchain.compress.merge import Config, adapter_input, run


def trained_adapter(base: Path, folder: Path, *, seed: int = 1, **settings: Any) -> Any:
    """Save an adapter of `base` as if it was trained; the peft model it came from (float32)."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    wanted = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", **settings}
    with torch.random.fork_rng():  # peft draws the start of A from the common generator
        torch.manual_seed(seed)
        tuned = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **wanted)).eval()
    generator = torch.Generator().manual_seed(seed)
    for parameter in tuned.parameters():
        if parameter.requires_grad:
            parameter.data += 0.1 * torch.randn(parameter.shape, generator=generator)
    tuned.save_pretrained(folder)
    return tuned


def merged(base: Path, adapter: Path, out: Path, **settings: Any) -> Artifact:
    """The stage's result in the new folder `out`, without the proof unless asked for."""
    source, _ = open_checkpoint(base, None)
    out.mkdir(parents=True)
    config = Config(adapter=adapter_input(adapter), **{"verify": False, **settings})
    return run(source, config, out)


def state(folder: Path) -> dict[str, Any]:
    """All weights as plain transformers loads them, in float32."""
    import torch
    from transformers import AutoModelForCausalLM

    return dict(AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).state_dict())


def logits(model: Any) -> Any:
    """Logits of a fixed text of ids."""
    import torch

    with torch.inference_mode():
        return model(input_ids=torch.arange(3, 35)[None]).logits
