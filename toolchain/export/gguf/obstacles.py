"""What llama.cpp computes in another way than the checkpoint says, told before it is converted.

The converter does not check these itself: it writes a file that does not load or, worse, one that
computes something else.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from common.damage import told_as_damage
from common.errors import UserError
from common.files import read_object

# llama.cpp tells these models by their number of layers, and scales their queries by the width.
_SCALED_BY_WIDTH = {"gemma2": 46, "gemma3_text": 62}
_WIDTHS = {"gpt2": ("n_embd", "n_inner"), "falcon": ("hidden_size", "ffn_hidden_size")}
_OWN_RULE = frozenset({"</s>", "<unk>", "<s>", "<|endoftext|>"})
_WITH_UNIGRAM = frozenset({"t5", "mt5", "umt5", "xlm-roberta", "nomic_bert", "new"})
_FETCH = "fetch the checkpoint's small files again"
_NAMES = ("phi-3", "phi3")


def require_computed(config: Mapping[str, Any], folder: Path) -> None:
    """Raise `UserError` where the GGUF file would not be the checkpoint's model."""
    with told_as_damage(f"a config or tokenizer of {folder}", _FETCH):
        found = (*_of_config(config), *_of_tokens(config, folder), *_of_unigram(config, folder))
    for problem in found:
        raise UserError(problem, "export ONNX, which computes it as transformers does")


def named_for_tokens(name: str, config: Mapping[str, Any], folder: Path) -> str:
    """The model's name inside the file: llama.cpp strips the white space behind special tokens
    where that has phi-3 in it, and nowhere else."""
    if config.get("model_type") != "phi3":
        return name
    with told_as_damage(f"the tokenizer of {folder}", _FETCH):
        strips = any(_strips(folder).values())
    says = any(part in name.lower() for part in _NAMES)
    if strips and not says:
        return f"{name} (phi-3)"
    if says and not strips:
        for part in (*_NAMES, "Phi-3", "Phi3", "PHI-3", "PHI3"):
            name = name.replace(part, "phi_3")
    return name


def _of_config(config: Mapping[str, Any]) -> Iterator[str]:
    kind = str(config.get("model_type"))
    scale, head = config.get("query_pre_attn_scalar"), config.get("head_dim")
    by_width = config.get("num_hidden_layers") == _SCALED_BY_WIDTH.get(kind)
    if kind in _SCALED_BY_WIDTH and None not in (scale, head) and scale != head and not by_width:
        yield (
            f"query_pre_attn_scalar is {scale}, but llama.cpp scales queries by the head size "
            f"{head}"
        )
    if kind in _WIDTHS:
        hidden, inner = (config.get(key) for key in _WIDTHS[kind])
        if isinstance(inner, int) and isinstance(hidden, int) and inner != 4 * hidden:
            yield (
                f"{_WIDTHS[kind][1]} is {inner}, but llama.cpp's converter takes {kind} to be four "
                f"times as wide inside as outside ({4 * hidden})"
            )


def _of_tokens(config: Mapping[str, Any], folder: Path) -> Iterator[str]:
    strips = _strips(folder) if config.get("model_type") == "phi3" else {}
    if len(set(strips.values())) == 2:
        some = next(token for token, strip in strips.items() if strip)
        other = next(token for token, strip in strips.items() if not strip)
        yield (
            f"the tokenizer strips the white space behind {some} but not behind {other}, and "
            "llama.cpp has one rule for all"
        )


def _of_unigram(config: Mapping[str, Any], folder: Path) -> Iterator[str]:
    path = folder / "tokenizer.json"
    model = read_object(path).get("model") or {} if path.is_file() else {}
    if model.get("type") == "Unigram" and config.get("model_type") not in _WITH_UNIGRAM:
        yield (
            "the tokenizer is SentencePiece Unigram, and llama.cpp cuts text that way for T5 and "
            "XLM-R alone: the tokens would be others"
        )


def _strips(folder: Path) -> dict[str, bool]:
    """Special tokens, and whether white space behind them goes."""
    path = folder / "tokenizer.json"
    added = read_object(path).get("added_tokens") or [] if path.is_file() else []
    return {
        str(token.get("content")): bool(token.get("rstrip"))
        for token in added
        if isinstance(token, dict) and token.get("special")
        and token.get("content") not in _OWN_RULE
    }  # fmt: skip
