"""The network that is trained: loaded (in 4 bit where wanted), with an adapter or all weights free.

`empty_network` has the same layers without memory for weights, to count and to check beforehand.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from toolchain.layer_widths import layer_widths, network_class, network_loader
from toolchain.train.job import Kind
from toolchain.train.settings import ALL_LINEAR, Finetune

_LOAD_FAULTS = (OSError, ValueError, KeyError, ImportError, RuntimeError, AttributeError, TypeError)
_CAUSAL_SUFFIXES = ("ForCausalLM", "LMHeadModel")
_EXPERT_PARTS = frozenset({"gate", "gate_proj", "up_proj", "down_proj", "w1", "w2", "w3"})
_LINEAR_KINDS = ("Linear", "Linear4bit", "Linear8bitLt", "Conv1D")


def quiet_libraries() -> None:
    """Keep back what the libraries say of each other, which no user can mend."""
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module="transformers")


def computes_in_bf16(settings: Finetune) -> bool:
    """Whether this machine computes in bfloat16: as set, else where a GPU is there that can."""
    import torch

    if settings.bf16 == "auto":
        return bool(torch.cuda.is_available() and torch.cuda.is_bf16_supported())
    return settings.bf16


def empty_network(
    model: Path, kind: Kind, labels: Sequence[str], settings: Finetune, *, trust_remote_code: bool
) -> Any:
    """The network on torch's meta device, adapter put on. Raises `UserError` when the model is of
    the wrong kind for the data, or lacks a layer that the settings name."""
    import torch

    config = _config(model, kind, labels, trust_remote_code)
    with torch.device("meta"):
        try:
            if layer_widths(facts := config.to_dict()):
                network = network_class(facts)._from_config(config)
            else:
                network = _auto_class(kind).from_config(config, trust_remote_code=trust_remote_code)
        except _LOAD_FAULTS as error:
            raise _does_not_load(model, error) from None
        return adapt(network, kind, settings)


def load_network(
    model: Path, kind: Kind, labels: Sequence[str], settings: Finetune, *, trust_remote_code: bool
) -> Any:
    """The network ready to train. Frozen weights are held in bfloat16 where it computes in that."""
    import torch

    bf16 = computes_in_bf16(settings)
    frozen = settings.method == "lora"
    network = _loaded(
        model,
        kind,
        config=_config(model, kind, labels, trust_remote_code),
        dtype=torch.bfloat16 if bf16 and frozen else torch.float32,
        trust_remote_code=trust_remote_code,
        **_in_few_bits(settings.quantization, bf16),
    )
    if settings.quantization == "nf4":
        from peft import prepare_model_for_kbit_training

        _keep_four_bit_exact(network)
        network = prepare_model_for_kbit_training(network, use_gradient_checkpointing=False)
    return adapt(network, kind, settings)


def load_frozen(
    model: Path, kind: Kind, quantization: str, *, bf16: bool, trust_remote_code: bool
) -> Any:
    """A network that only answers, with its own head: weights as they are, or `nf4` or `int8`.
    Raises `UserError` when it does not load or has no head of this kind."""
    import torch

    network = _loaded(
        model,
        kind,
        config=_config(model, kind, (), trust_remote_code),
        dtype=torch.bfloat16 if bf16 else torch.float32,
        trust_remote_code=trust_remote_code,
        **_in_few_bits(quantization, bf16),
    )
    if quantization == "nf4":
        _keep_four_bit_exact(network)
    return network.requires_grad_(False).eval()


def adapt(network: Any, kind: Kind, settings: Finetune) -> Any:
    """Put the adapter on, or free all weights."""
    if settings.method == "full":
        return network
    from peft import LoraConfig, get_peft_model

    targets = settings.target_modules
    wanted: str | list[str] = targets if isinstance(targets, str) else list(targets)
    if wanted != ALL_LINEAR:
        wanted = [wanted] if isinstance(wanted, str) else wanted
        _require_modules(network, wanted, "target_modules")
    elif _has_packed_experts(network):
        wanted = _linear_layers(network)
    _require_modules(network, settings.modules_to_save, "modules_to_save")
    config = LoraConfig(
        task_type="CAUSAL_LM" if kind == "causal" else "SEQ_CLS",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=wanted,
        modules_to_save=list(settings.modules_to_save) or None,
        # A head that is the embedding stays that, or the exported model would grow by a table.
        ensure_weight_tying=bool(settings.modules_to_save)
        and bool(network.config.get_text_config().tie_word_embeddings),
        rank_pattern=settings.rank_pattern,
        alpha_pattern=settings.alpha_pattern,
        use_dora=settings.dora,
        use_rslora=settings.rslora,
    )
    try:
        return get_peft_model(network, config)
    except (ValueError, TypeError) as error:
        raise UserError(
            f"the adapter cannot be put on: {' '.join(str(error).split())}",
            f"its linear layers: {', '.join(_linear_names(network))}",
        ) from None


def _has_packed_experts(network: Any) -> bool:
    """Whether experts are parameters of three dimensions, not linear modules: peft's `all-linear`
    would wrap those, without dropout and under names that no checkpoint has."""
    return any(parameter.dim() == 3 for parameter in network.parameters())


def _linear_layers(network: Any) -> list[str]:
    """Full names of the linear modules but the head and FFNs: peft takes the name of an FFN's
    module for that of the experts' parameter."""
    head = network.get_output_embeddings()
    return [
        name
        for name, part in network.named_modules()
        if type(part).__name__ in _LINEAR_KINDS
        and part is not head
        and name.rpartition(".")[2] not in _EXPERT_PARTS
    ]


def _require_modules(network: Any, names: Sequence[str], key: str) -> None:
    there = [name for name, _ in network.named_modules()]
    for name in names:
        if not any(found == name or found.endswith(f".{name}") for found in there):
            raise UserError(
                f"{key} names '{name}', which the model does not have",
                f"its linear layers: {', '.join(_linear_names(network))}",
            )


def _linear_names(network: Any) -> list[str]:
    """Last parts of the names of all linear layers, each once."""
    parts = network.named_modules()
    names = (name for name, part in parts if type(part).__name__ in _LINEAR_KINDS)
    return list(dict.fromkeys(name.rpartition(".")[2] for name in names))


def _auto_class(kind: Kind) -> Any:
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    return AutoModelForCausalLM if kind == "causal" else AutoModelForSequenceClassification


def _config(model: Path, kind: Kind, labels: Sequence[str], trust_remote_code: bool) -> Any:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(
            model, trust_remote_code=trust_remote_code, local_files_only=True
        )
    except _LOAD_FAULTS as error:
        raise _does_not_load(model, error) from None
    names = config.architectures or [""]
    writes = names[0].endswith(_CAUSAL_SUFFIXES)
    if kind == "classification" and writes:
        raise UserError(
            f"the rows have labels, but {names[0]} writes text",
            "give an encoder (BERT and the like), or rows with messages or text",
        )
    if kind == "causal" and not writes:
        raise UserError(
            f"the rows are conversations or texts, but {names[0] or 'this model'} does not write",
            "give a language model (...ForCausalLM), or rows with text and label",
        )
    if labels:
        config.num_labels = len(labels)
        config.id2label = dict(enumerate(labels))
        config.label2id = {label: number for number, label in enumerate(labels)}
        config.problem_type = "single_label_classification"
    return config


def _loaded(model: Path, kind: Kind, **options: Any) -> Any:
    try:
        loader = network_loader(_auto_class(kind), model)
        network, said = loader.from_pretrained(
            model, local_files_only=True, output_loading_info=True, **options
        )
    except _LOAD_FAULTS as error:
        raise _does_not_load(model, error) from None
    # A classifier's head is often new; what a language model lacks would be random.
    missing = sorted(said["missing_keys"])
    if kind == "causal" and missing and "quantization_config" not in options:
        raise UserError(
            f"the weights of {model} lack {', '.join(missing[:3])}", "fetch all weights"
        )
    return network


def _in_few_bits(quantization: str, bf16: bool) -> dict[str, Any]:
    """Options of loading that hold linear layers in 4 (nf4) or 8 bit (int8); none for `none`."""
    if quantization == "none":
        return {}
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise UserError(
            f"quantization {quantization} needs bitsandbytes, which is not installed",
            "make setup; where it does not exist for this machine, train without quantization",
        ) from None
    import torch
    from transformers import BitsAndBytesConfig

    settings = BitsAndBytesConfig(load_in_8bit=True)
    if quantization == "nf4":
        settings = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16 if bf16 else torch.float32,
        )
    device = torch.cuda.current_device() if torch.cuda.is_available() else "cpu"
    return {"quantization_config": settings, "device_map": {"": device}}


def _keep_four_bit_exact(network: Any) -> None:
    """bitsandbytes rounds a layer's scales to bfloat16 when a CPU first evaluates it, for speed,
    and stops at widths that are no multiple of 64. Training would go on from other weights then."""
    for part in network.modules():
        if hasattr(part, "support_avx512bf16_for_cpu"):
            part.support_avx512bf16_for_cpu = False


def _does_not_load(model: Path, error: Exception) -> UserError:
    return UserError(
        f"the weights of {model} do not load in torch: {' '.join(str(error).split())[:400]}",
        "check the checkpoint, or fetch it again",
    )
