"""Gates on tokens: the file's tokenizer gives the ids of the Hugging Face tokenizer, and knows
where an answer ends."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable, Sequence
from typing import Any

from runtimes.llama import LlamaModel
from toolchain.evaluate.gate import Gate
from toolchain.hf import token_ids

_TOKEN_MEND = (
    "convert again from this checkpoint; if it stays, llama.cpp has no equal of this tokenizer"
)
# Vowels and final consonants of Hangul, which its syllables are made of.
_JAMO_INNER = frozenset(map(chr, range(0x1161, 0x1200)))
_STOP_MEND = "set eos_token_id in generation_config.json to the token that ends an answer"


def token_gate(
    tokenizer: Any,
    model: LlamaModel,
    texts: Iterable[str],
    *,
    awkward: Iterable[str] = (),
    name: str = "token ids",
) -> Gate:
    """Compare ids with special tokens added (BOS, EOS) and without, text of special tokens parsed.

    The figure counts texts that differ; the detail shows the first difference. Three differences
    are known and counted apart. SentencePiece puts a space before every text, transformers'
    tokenizers of that kind leave it out where the text begins with one; the file does as
    SentencePiece does. And llama.cpp composes no characters: where the checkpoint's tokenizer
    brings text into Unicode form NFC first (Qwen's does), text that is not in that form differs,
    and equals once it is. WordPiece of llama.cpp drops marks that belong to letters (vowels of
    Hangul, Devanagari, Thai): that is told of `awkward` texts, and a fault in the others.
    """
    different, spaced, composed, unmarked, compared, tokens, first = 0, 0, 0, 0, 0, 0, ""
    every = [(text, False) for text in texts] + [(text, True) for text in awkward]
    for text, tried in every:
        compared += 1
        for add_special in (True, False):
            expected = token_ids(tokenizer, text, add_special=add_special)
            actual = model.tokenize(text, add_special=add_special)
            tokens += len(expected)
            if expected == actual:
                continue
            if _is_leading_space(tokenizer, model, text, actual, add_special):
                spaced += 1
            elif _is_uncomposed(model, text, expected, add_special):
                composed += 1
            elif tried and _is_unmarked(tokenizer, model, text, actual, add_special):
                unmarked += 1
            else:
                different += 1
                first = first or _difference(tokenizer, text, expected, actual, add_special)
            break
    equal = compared - spaced - composed - unmarked
    detail = first or f"{equal} texts, {tokens} tokens equal"
    if unmarked and not first:
        detail += f"; {unmarked} texts without the marks of their letters (Hangul, Indic, Thai)"
    if spaced and not first:
        detail += f"; {spaced} texts with a leading space as SentencePiece has them"
    if composed and not first:
        detail += (
            f"; {composed} texts equal only in Unicode form NFC, which llama.cpp leaves to you"
        )
    return Gate(name, different, 0, different == 0, detail, _TOKEN_MEND)


def _is_leading_space(
    tokenizer: Any, model: LlamaModel, text: str, actual: list[int], add_special: bool
) -> bool:
    if not text.startswith(" ") or model.metadata.get("tokenizer.ggml.model") != "llama":
        return False
    return token_ids(tokenizer, f" {text}", add_special=add_special) == actual


def _is_unmarked(
    tokenizer: Any, model: LlamaModel, text: str, actual: list[int], add_special: bool
) -> bool:
    if model.metadata.get("tokenizer.ggml.model") != "bert":
        return False
    bare = "".join(
        letter
        for letter in unicodedata.normalize("NFD", text)
        if not unicodedata.category(letter).startswith("M") and letter not in _JAMO_INNER
    )
    return bare != text and token_ids(tokenizer, bare, add_special=add_special) == actual


def _is_uncomposed(model: LlamaModel, text: str, expected: list[int], add_special: bool) -> bool:
    normal = unicodedata.normalize("NFC", text)
    return normal != text and model.tokenize(normal, add_special=add_special) == expected


def stop_gate(
    end_ids: Sequence[int], tokenizer: Any, model: LlamaModel, rendered_end: str = ""
) -> Gate:
    """What ends an answer for the checkpoint must end it for the file.

    Required: of the checkpoint's end ids the tokenizer's own and those that the chat template
    writes after an answer (`rendered_end`: its text after one), all of them when neither is among
    them. The others (a BOS in the list, for example) have no place in a GGUF and must reach the
    runtime as stop parameters: `extra_stop_ids` gives them.
    """
    turn_end = token_ids(tokenizer, rendered_end, add_special=False)
    required = [i for i in end_ids if i == tokenizer.eos_token_id or i in turn_end] or end_ids
    missing = [i for i in required if i not in model.eog_token_ids]
    if not end_ids:
        return Gate("stop tokens", None, 0, True, "not applicable: the checkpoint has no end token")
    if missing:
        names = ", ".join(f"{i} {tokenizer.convert_ids_to_tokens(i)!r}" for i in missing)
        detail = f"the file does not end an answer at {names}"
    else:
        extra = extra_stop_ids(end_ids, model)
        detail = f"ends at {sorted(set(end_ids) - set(extra))}"
        detail += f"; as stop parameters: {extra}" if extra else ""
    return Gate("stop tokens", len(missing), 0, not missing, detail, _STOP_MEND)


def extra_stop_ids(end_ids: Sequence[int], model: LlamaModel) -> list[int]:
    """End ids of the checkpoint that the file does not itself know as such."""
    return [i for i in end_ids if i not in model.eog_token_ids]


def _difference(
    tokenizer: Any, text: str, expected: list[int], actual: list[int], add_special: bool
) -> str:
    """The first place where the ids part, with what comes before and the tokens of both sides."""
    same = next(
        (i for i, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b),
        min(len(expected), len(actual)),
    )
    names = tokenizer.convert_ids_to_tokens
    before = tokenizer.decode(expected[max(0, same - 6) : same])
    known = len(tokenizer)
    ours = [names(i) if i < known else f"#{i}" for i in actual[same : same + 4]]
    return (
        f"in {text[:40]!r}{'…' if len(text) > 40 else ''} (special tokens "
        f"{'added' if add_special else 'not added'}) at token {same} after {before!r}: "
        f"checkpoint {expected[same : same + 4]} {names(expected[same : same + 4])}, "
        f"file {actual[same : same + 4]} {ours}"
    )
