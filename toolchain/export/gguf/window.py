"""Sliding windows that llama.cpp does not compute, and how long a text may then be.

llama.cpp has windows for some architectures (Gemma and others). Mistral, Qwen2 and Phi-3 become
architectures of it that attend to everything: as long as a text fits into the window that is the
same, beyond it another model. So the file says that its context is as long as the window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# Model types whose GGUF form attends to everything.
_WITHOUT_WINDOW = frozenset({"llama", "mistral", "mixtral", "phi3", "qwen2", "qwen2_moe", "qwen3",
                             "qwen3_moe", "starcoder2"})  # fmt: skip


def lost_window(config: Mapping[str, Any]) -> int | None:
    """Tokens that a text may have before the file would compute another thing than the checkpoint;
    None where it never does."""
    window, context = config.get("sliding_window"), config.get("max_position_embeddings")
    if config.get("model_type") not in _WITHOUT_WINDOW or not isinstance(window, int):
        return None
    if config.get("use_sliding_window") is False or not _windowed_layers(config):
        return None
    if isinstance(context, int) and window >= context:
        return None
    return window


def window_limit(config: Mapping[str, Any]) -> list[str]:
    """What a user has to know of it."""
    window = lost_window(config)
    if window is None:
        return []
    return [f"texts up to {window} tokens: llama.cpp does not compute its sliding window beyond"]


def file_context(config: Mapping[str, Any], context_tokens: int | None) -> int | None:
    """The context that the GGUF file says it has."""
    window = lost_window(config)
    if window is None:
        return context_tokens
    return window if context_tokens is None else min(window, context_tokens)


def _windowed_layers(config: Mapping[str, Any]) -> bool:
    """Whether any layer has the window; without a list the architecture's own rule holds."""
    kinds = config.get("layer_types")
    if isinstance(kinds, list):
        return "sliding_attention" in kinds
    own = str(config.get("model_type"))
    return bool(config.get("use_sliding_window", not own.startswith("qwen")))
