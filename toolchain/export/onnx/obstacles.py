"""What keeps onnxruntime-genai's model builder from a checkpoint, told before it is run.

The builder does not check these itself: it writes a graph that fails when it is run, or, worse, one
that computes something else. A checkpoint with an obstacle takes torch.onnx.export instead.
"""

from __future__ import annotations

import ast
import importlib.util
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from common.errors import UserError
from toolchain.checkpoint.config_facts import (
    EXPERTS,
    output_head,
    token_embedding,
    whole_number,
)
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.export.gguf.window import lost_window

# GroupQueryAttention's CPU kernel packs heads in units of this many values.
_HEAD_UNIT = 16


def builder_obstacles(info: CheckpointInfo, *, trust_remote_code: bool = False) -> list[str]:
    """Reasons, in words, why the builder must not be used; empty when none is known."""
    found = [
        _unknown_architecture(info),
        _head_size(info),
        _taken_for_head(info),
        _end_token(info),
        _window(info),
    ]
    if trust_remote_code and "auto_map" in info.config:
        found.append("it needs the checkpoint's own Python code")
    return [reason for reason in found if reason]


def require_exportable(info: CheckpointInfo) -> None:
    """Raise `UserError` for what neither the builder nor torch's exporters can export: found out by
    trying, and told before that is done."""
    experts = whole_number(info.text_config, EXPERTS) or 0
    if experts > 1 and info.architecture not in builder_architectures():
        raise UserError(
            f"{info.architecture} chooses among {experts} experts for each token: the builder does "
            "not know it, and torch's exporters cannot trace that",
            "export GGUF, which keeps experts as they are",
        )


def head_size(info: CheckpointInfo) -> int | None:
    """Values of one attention head, where the config tells."""
    text = info.text_config
    if isinstance(said := text.get("head_dim"), int):
        return said
    hidden = text.get("hidden_size", text.get("n_embd"))
    heads = text.get("num_attention_heads", text.get("n_head"))
    return hidden // heads if isinstance(hidden, int) and isinstance(heads, int) and heads else None


@cache
def builder_architectures() -> frozenset[str]:
    """Architectures that the builder's own dispatch names, read without importing it."""
    package = importlib.util.find_spec("onnxruntime_genai")
    if package is None or package.origin is None:
        raise UserError("onnxruntime-genai is not installed", "make setup")
    source = Path(package.origin).parent / "models" / "builder.py"
    return frozenset(_compared_names(ast.parse(source.read_text(encoding="utf-8"))))


def _compared_names(tree: ast.Module) -> Iterator[str]:
    """Strings that `config.architectures[0]` is compared with."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare) and "architectures" in ast.dump(node.left):
            for value in node.comparators:
                names = value.elts if isinstance(value, ast.Set | ast.Tuple | ast.List) else [value]
                yield from (n.value for n in names if isinstance(n, ast.Constant))  # type: ignore[misc]


def _unknown_architecture(info: CheckpointInfo) -> str:
    if info.architecture in builder_architectures():
        return ""
    return f"the builder does not know architecture {info.architecture}"


def _head_size(info: CheckpointInfo) -> str:
    size = head_size(info)
    if size is None or size % _HEAD_UNIT == 0:
        return ""
    return f"its head size {size} is no multiple of {_HEAD_UNIT}, which GroupQueryAttention needs"


def _taken_for_head(info: CheckpointInfo) -> str:
    """The builder takes any Linear as wide as the vocabulary for the output head."""
    names = [tensor.name for tensor in info.tensors]
    rightful = {token_embedding(names), output_head(names)}
    wide = [
        tensor.name
        for tensor in info.tensors
        if len(tensor.shape) == 2
        and tensor.shape[0] == info.vocab_size
        and tensor.name not in rightful
    ]
    if not wide:
        return ""
    return f"the builder would take {wide[0]} for the output head: both are {info.vocab_size} wide"


def _window(info: CheckpointInfo) -> str:
    """The builder's graph of a Mistral attends to everything."""
    window = lost_window(info.text_config) if info.model_type == "mistral" else None
    return f"the builder leaves out its sliding window of {window} tokens" if window else ""


def _end_token(info: CheckpointInfo) -> str:
    beyond = [i for i in info.eos_token_ids if info.vocab_size and i >= info.vocab_size]
    return f"its end token {beyond[0]} lies beyond the vocabulary" if beyond else ""
