"""The network that is trained: loaded, perhaps in 4 bit, and given its adapter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.errors import UserError
from toolchain.train.rows import CLASSIFICATION, Task
from toolchain.train.settings import Finetune

_LOAD_FAULTS = (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError, TypeError)
_SHOWN_MODULES = 20


def load_network(model: Path, task: Task, *, bf16: bool, trust_remote_code: bool) -> Any:
    """The whole network, ready to train. Raises `UserError` when it does not load or has no such
    modules."""
    settings = task.settings
    network = _load(model, task, bf16=bf16, trust_remote_code=trust_remote_code)
    network.config.use_cache = False
    if settings.method == "full":
        return network
    from peft import get_peft_model, prepare_model_for_kbit_training

    if settings.quantization == "nf4":
        network = prepare_model_for_kbit_training(
            network, use_gradient_checkpointing=settings.gradient_checkpointing
        )
    elif settings.gradient_checkpointing:
        network.enable_input_require_grads()
    try:
        return get_peft_model(network, lora_config(settings, task.kind))
    except ValueError as error:
        raise UserError(
            f"the adapter does not fit {model.name}: {str(error).splitlines()[0][:200]}",
            f"target_modules can be: {', '.join(linear_modules(network))}",
        ) from None


def lora_config(settings: Finetune, kind: str) -> Any:
    """peft's configuration of the adapter."""
    from peft import LoraConfig, TaskType

    wanted = settings.target_modules
    return LoraConfig(
        task_type=TaskType.SEQ_CLS if kind == CLASSIFICATION else TaskType.CAUSAL_LM,
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=wanted if isinstance(wanted, str) else list(wanted),
        modules_to_save=list(settings.modules_to_save) or None,
        rank_pattern=settings.rank_pattern,
        alpha_pattern=settings.alpha_pattern,
        use_dora=settings.dora,
        use_rslora=settings.rslora,
    )


def linear_modules(network: Any) -> list[str]:
    """Last names of the network's linear layers, as `target_modules` takes them."""
    import torch

    names = {
        name.rsplit(".", 1)[-1]
        for name, module in network.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    return sorted(names)[:_SHOWN_MODULES]


def computes_in_bfloat16(settings: Finetune) -> bool:
    """Whether to: as asked, or where a GPU does it."""
    import torch

    if settings.bf16 == "auto":
        return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported())
    return settings.bf16 == "yes"


def _load(model: Path, task: Task, *, bf16: bool, trust_remote_code: bool) -> Any:
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    settings = task.settings
    dtype = torch.bfloat16 if bf16 and settings.method == "lora" else torch.float32
    more: dict[str, Any] = {}
    if settings.quantization == "nf4":
        more["quantization_config"] = _four_bit(dtype)
    loader: Any = AutoModelForCausalLM
    if task.kind == CLASSIFICATION:
        loader = AutoModelForSequenceClassification
        ids = dict(enumerate(task.labels))
        more |= {
            "num_labels": len(ids),
            "id2label": ids,
            "label2id": {label: i for i, label in ids.items()},
            "ignore_mismatched_sizes": True,
        }
    try:
        return loader.from_pretrained(
            model,
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            local_files_only=True,
            **more,
        )
    except _LOAD_FAULTS as error:
        raise UserError(
            f"{model.name} does not load for training: {str(error).splitlines()[0][:300]}",
            "check that it is a model of the right kind for the data",
        ) from None


def _four_bit(dtype: Any) -> Any:
    from transformers import BitsAndBytesConfig

    try:
        import bitsandbytes  # noqa: F401 (transformers' own message is less clear)
    except ImportError:
        raise UserError(
            "quantization nf4 needs bitsandbytes, which is not installed", "make setup"
        ) from None
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=dtype,
    )
