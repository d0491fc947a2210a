"""What a `config.json` says, under whichever of the usual names it says it."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

_NESTED = ("text_config", "llm_config", "language_config")
_CONTEXT = ("max_position_embeddings", "n_positions", "n_ctx", "max_sequence_length",
            "max_seq_len", "seq_length", "model_max_length")  # fmt: skip
_LAYERS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts")
_HIDDEN = ("hidden_size", "n_embd", "d_model", "dim")
# The converter routes these by their outer name although their text_config names another.
_OUTER_NAME_DECIDES = frozenset(
    {
        "StepVLForConditionalGeneration",
        "Sarashina2VisionForCausalLM",
        "Exaone4_5_ForConditionalGeneration",
        "Step3p7ForConditionalGeneration",
        "KimiK3ForConditionalGeneration",
    }
)
# Model types whose transformers config unties the output head unless it says otherwise.
UNTIED_BY_DEFAULT = frozenset((
    "llama", "mistral", "mixtral", "qwen2", "qwen2_moe", "qwen3", "qwen3_moe", "phi", "phi3",
    "olmo", "olmo2", "granite", "stablelm", "gpt_neox", "deepseek_v2", "deepseek_v3",
    "nemotron", "glm", "glm4", "exaone4", "seed_oss",
))  # fmt: skip
# As in gguf-py's table of token embedding names (MODEL_TENSOR.TOKEN_EMBD), without `.weight`.
_EMBEDDING_SUFFIXES = ("embed_tokens", "wte", "word_embeddings", "embed_in", "tok_embeddings",
                       "token_embeddings", "in_out_embed", "shared")  # fmt: skip
_EMBEDDING_NAMES = ("encoder.weight", "model.embedding.weight", "backbone.embedding.weight",
                    "backbone.embeddings.weight", "rwkv.embeddings.weight",
                    "model.embeddings.weight")  # fmt: skip
_HEAD = re.compile(r"(^|\.)(lm_head|embed_out|output)\.weight$")
_OTHER_TOWER = re.compile(r"vision|visual|audio|image|speech|vae|draft|mtp")
# Buffers that older transformers versions saved beside the parameters.
_BUFFER = re.compile(r"(rotary_emb\.inv_freq|\.(attn|attention)\.(masked_)?bias|position_ids)$")


def text_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The language model's part of a config, laid over the outer part."""
    for key in _NESTED:
        nested = config.get(key)
        if isinstance(nested, dict):
            return {**config, **nested}
    return config


def architecture(config: Mapping[str, Any]) -> str | None:
    """The architecture's name by the official converter's rule (`get_model_architecture`)."""
    outer = _first_name(config.get("architectures"))
    if outer in _OUTER_NAME_DECIDES:
        return outer
    nested = config.get("text_config")
    inner = _first_name(nested.get("architectures")) if isinstance(nested, dict) else None
    return inner or outer


def whole_number(config: Mapping[str, Any], keys: Sequence[str]) -> int | None:
    """The first of these keys that holds a whole number."""
    for key in keys:
        value = config.get(key)
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    return None


def context_tokens(config: Mapping[str, Any]) -> int | None:
    """How many positions the model was made for."""
    return whole_number(config, _CONTEXT)


def expert_limit(config: Mapping[str, Any]) -> list[str]:
    """What training a mixture of experts with LoRA leaves out."""
    if (whole_number(config, EXPERTS) or 0) < 2:
        return []
    return ["LoRA trains attention; FFNs and experts stay as they are"]


def layer_count(config: Mapping[str, Any]) -> int | None:
    """How many layers the config promises."""
    return whole_number(config, _LAYERS)


def hidden_size(config: Mapping[str, Any]) -> int | None:
    """Width of the residual stream."""
    return whole_number(config, _HIDDEN)


def token_embedding(names: Sequence[str]) -> str | None:
    """Which of these tensors is the token embedding: the shortest name of the known kinds."""
    found = [
        name
        for name in names
        if not _OTHER_TOWER.search(name)
        and (
            name in _EMBEDDING_NAMES
            or name.removesuffix(".weight").rpartition(".")[2] in _EMBEDDING_SUFFIXES
        )
        and name.endswith(".weight")
    ]
    return min(found, key=len, default=None)


def output_head(names: Sequence[str]) -> str | None:
    """Which of these tensors is the output head, when there is one."""
    found = [name for name in names if _HEAD.search(name) and not _OTHER_TOWER.search(name)]
    found = [name for name in found if "attention" not in name and "layer" not in name]
    return min(found, key=len, default=None)


def is_buffer(name: str) -> bool:
    """Whether this tensor is a saved buffer, no parameter."""
    return _BUFFER.search(name) is not None


def _first_name(value: Any) -> str | None:
    if isinstance(value, list) and value and isinstance(value[0], str):
        return value[0]
    return None
