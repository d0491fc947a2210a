"""Save what was trained: an adapter in peft's form, or a whole checkpoint."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from toolchain.train.launch import Job
    from toolchain.train.rows import Task

_ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")


def save_result(job: Job, task: Task, trainer: Any) -> None:
    """Write the weights that are kept into `job.result`; under Accelerate all processes call it."""
    state = trainer.accelerator.get_state_dict(trainer.model)
    if not trainer.is_world_process_zero():
        return
    shutil.rmtree(job.result, ignore_errors=True)
    job.result.mkdir(parents=True)
    network = trainer.accelerator.unwrap_model(trainer.model)
    if job.settings.method == "lora":
        _save_adapter(job, network, state)
    else:
        _save_checkpoint(job, network, state)


def _save_adapter(job: Job, network: Any, state: dict[str, Any]) -> None:
    """The adapter, in float32; its config names the base by name, never by place."""
    from toolchain.checkpoint.locate import model_name

    # Neither the embeddings of a grown vocabulary nor the hub's model card are wanted.
    network.peft_config["default"].base_model_name_or_path = model_name(str(job.model))
    network.save_pretrained(job.result, state_dict=state, save_embedding_layers=False)
    for path in job.result.iterdir():
        if path.name not in _ADAPTER_FILES:
            path.unlink()


def _save_checkpoint(job: Job, network: Any, state: dict[str, Any]) -> None:
    """Config and weights, in the base's own type."""
    dtype = _stored_dtype(job.model)
    network.config.use_cache = True
    network.config.dtype = dtype
    network.config._name_or_path = ""
    values = {name: value.to(dtype) for name, value in state.items() if value.is_floating_point()}
    network.save_pretrained(job.result, state_dict={**state, **values})


def _stored_dtype(model: Path) -> Any:
    """The type that most of the base's weights are stored in."""
    from collections import Counter

    import torch

    from toolchain.checkpoint.inspect import inspect

    names = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    counts: Counter[str] = Counter()
    for tensor in inspect(model).tensors:
        counts[tensor.dtype] += tensor.elements
    return names.get(counts.most_common(1)[0][0], torch.float32)


def copy_rest(source: Path, files: list[str], result: Path) -> None:
    """The base's other files (tokenizer, licence, companion data) beside what was saved."""
    for name in files:
        target = result / name
        if not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source / name, target)


def link_or_copy(source: Path, target: Path) -> None:
    """A file of the result as the stage's own, without a second copy where the disk allows."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
