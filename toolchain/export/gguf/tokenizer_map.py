"""Which of llama.cpp's pre-tokenizers a user-trained tokenizer has, by its structure.

The official converter knows tokenizers by a hash of their output, so it refuses every tokenizer
that a user trained. But nearly always such a tokenizer splits text with a well-known expression;
llama.cpp has that expression under a name (`tokenizer.ggml.pre`). A matching name is no proof:
the parity stage compares tokens on real text.

Expressions and flags as in llama.cpp's src/llama-vocab.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.damage import told_as_damage
from common.errors import UserError
from common.files import read_object

_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD = r"[^\r\n\p{L}\p{N}]?\p{L}+"
_MARKS = r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_SPACES = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_LEAD = r"[^\r\n\p{L}\p{N}]?"
_CASED = (
    rf"{_LEAD}{_UPPER}*{_LOWER}+{{0}}|{_LEAD}{_UPPER}+{_LOWER}*{{0}}|\p{{N}}{{1}}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n/]*|" + _SPACES
)
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
QWEN2 = f"{_CONTRACTIONS}|{_WORD}|\\p{{N}}|{_MARKS}|{_SPACES}"
LLAMA3 = f"{_CONTRACTIONS}|{_WORD}|\\p{{N}}{{1,3}}|{_MARKS}|{_SPACES}"
QWEN35 = (
    rf"{_CONTRACTIONS}|[^\r\n\p{{L}}\p{{N}}]?[\p{{L}}\p{{M}}]+|\p{{N}}"
    rf"| ?[^\s\p{{L}}\p{{M}}\p{{N}}]+[\r\n]*|{_SPACES}"
)
GPT4O = _CASED.replace("{0}", f"{_CONTRACTIONS}?").replace(r"\p{N}{1}", r"\p{N}{1,3}")
TEKKEN = _CASED.replace("{0}", "").replace(r"\p{N}{1}", r"\p{N}")
DEEPSEEK3 = (
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"
    rf"| ?[\p{{P}}\p{{S}}]+[\r\n]*|{_SPACES}"
)
_CJK = "[一-龥぀-ゟ゠-ヿ]+"

# The splits in order, and whether the model takes whole words from the vocabulary before merging
# (`ignore_merges`), which llama.cpp decides by the name too.
_NAMES: dict[tuple[tuple[str, ...], bool], str] = {
    ((GPT2,), False): "gpt-2",
    ((r"\p{N}", GPT2), False): "smollm",
    ((QWEN2,), False): "qwen2",
    ((QWEN35,), False): "qwen35",
    ((LLAMA3,), True): "llama-bpe",
    ((LLAMA3,), False): "smaug-bpe",
    # llama.cpp's gpt-4o and tekken part from these expressions on combining marks (Devanagari); the
    # token comparison decides whether that matters for a model's text.
    ((GPT4O,), False): "gpt-4o",
    ((GPT4O,), True): "granite-embed-multi-97m",
    ((TEKKEN,), True): "tekken",
    ((r"\p{N}{1,3}", _CJK, DEEPSEEK3), False): "deepseek-v3",
    (("<Punctuation Contiguous>", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"), False): "falcon",
}
_HARMLESS_NORMALIZERS = {"NFC"}
_FETCH = "fetch the tokenizer's files again"
_MEND = (
    "train the tokenizer with the pre-tokenizer of a known family (GPT-2, Qwen2, Llama 3), or use "
    "the base model's own tokenizer"
)


def pre_tokenizer_name(folder: Path) -> str | None:
    """llama.cpp's name for the checkpoint's byte-level BPE pre-tokenizer, by structure.

    Nothing when the checkpoint has no tokenizer.json, or one of another kind (SentencePiece,
    WordPiece), for which llama.cpp needs no name. Raises `UserError` when a byte-level BPE
    tokenizer has a structure that llama.cpp cannot follow; that matters only if the converter does
    not know the tokenizer either.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        return None
    with told_as_damage(path, _FETCH):
        return _name(path, read_object(path))


def _name(path: Path, data: Mapping[str, Any]) -> str | None:
    model = data.get("model") or {}
    splits = _splits(data.get("pre_tokenizer"))
    if model.get("type", "BPE") != "BPE" or splits is None:
        return None
    _refuse_normalizer(path, data.get("normalizer"))
    if _has_prefix_space(data.get("pre_tokenizer")):
        raise UserError(
            f"{path.name} puts a space before the text (add_prefix_space), "
            "which llama.cpp does not for byte-level BPE",
            "train the tokenizer with add_prefix_space=False",
        )
    name = _NAMES.get((tuple(splits), bool(model.get("ignore_merges", False))))
    if name is None:
        shown = " then ".join(splits)
        raise UserError(
            f"{path.name} splits text in a way that llama.cpp does not know: {shown[:300]}", _MEND
        )
    return name


def scores_from_merges(folder: Path) -> bool:
    """Whether this is a SentencePiece-type tokenizer whose scores only its merges still tell."""
    path = folder / "tokenizer.json"
    if (folder / "tokenizer.model").is_file() or not path.is_file():
        return False
    model = read_object(path).get("model")
    if not isinstance(model, dict):
        raise UserError(f"{path} has no model", _FETCH)
    return bool(model.get("byte_fallback")) and bool(model.get("merges"))


def _splits(pre_tokenizer: Any) -> list[str] | None:
    """The normalised expressions in order; nothing when this is no byte-level tokenizer."""
    steps = _steps(pre_tokenizer)
    if not any(step.get("type") == "ByteLevel" for step in steps):
        return None
    found = []
    for step in steps:
        kind = step.get("type")
        if kind == "ByteLevel":
            if step.get("use_regex", True):
                found.append(normalise(GPT2))
        elif kind == "Digits":
            found.append(r"\p{N}" if step.get("individual_digits") else r"\p{N}+")
        elif kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
            pattern = step.get("pattern") or {}
            found.append(normalise(pattern.get("Regex") or re.escape(pattern.get("String", ""))))
        else:
            found.append(f"<{kind} {step.get('behavior', '')}>".replace(" >", ">"))
    return found


def normalise(pattern: str) -> str:
    """One spelling for expressions that mean the same."""
    spelled = pattern.replace("\r", r"\r").replace("\n", r"\n")
    cased = (
        "(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])",
        "(?:'s|'t|'re|'ve|'m|'ll|'d|'S|'T|'RE|'VE|'M|'LL|'D)",
        "'(?i:[sdmt]|ll|ve|re)",
        "(?i:'[sdmt]|'ll|'ve|'re)",
    )
    for same in cased:
        spelled = spelled.replace(same, _CONTRACTIONS)
    # Possessive repetition only forbids backtracking that these expressions never need.
    spelled = spelled.replace(r"\p{N}]?+\p{L}", r"\p{N}]?\p{L}").replace("++", "+")
    spelled = spelled.replace(r"{1}", "").replace(r"\r\n]++", r"\r\n]+")
    return spelled


def _steps(pre_tokenizer: Any) -> list[Mapping[str, Any]]:
    if not isinstance(pre_tokenizer, Mapping):
        return []
    if pre_tokenizer.get("type") == "Sequence":
        return [s for inner in pre_tokenizer.get("pretokenizers", []) for s in _steps(inner)]
    return [pre_tokenizer]


def _has_prefix_space(pre_tokenizer: Any) -> bool:
    return any(
        step.get("type") == "ByteLevel" and step.get("add_prefix_space")
        for step in _steps(pre_tokenizer)
    )


def _refuse_normalizer(path: Path, normalizer: Any) -> None:
    if not isinstance(normalizer, Mapping):
        return
    inner = normalizer.get("normalizers") or [normalizer]
    kinds = [str(step.get("type")) for step in inner if isinstance(step, Mapping)]
    unknown = [kind for kind in kinds if kind not in _HARMLESS_NORMALIZERS]
    if unknown:
        raise UserError(
            f"{path.name} changes the text before splitting it ({', '.join(unknown)}), "
            "which llama.cpp does not for byte-level BPE",
            _MEND,
        )
