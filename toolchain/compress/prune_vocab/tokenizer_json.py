"""A tokenizer.json: its tokens, what of them must always stay, and the same with fewer tokens."""

from __future__ import annotations

import copy
import json
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any, Literal

from common.damage import told_as_damage
from common.errors import UserError
from toolchain.compress.prune_vocab.merges import Merges

Kind = Literal["BPE", "Unigram", "WordPiece"]
KINDS: tuple[Kind, ...] = ("BPE", "Unigram", "WordPiece")
_BYTES = frozenset(f"<0x{number:02X}>" for number in range(256))


class TokenizerJson:
    """`ids` has every token, those added to the vocabulary too; ids need not be without gaps."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        self.data = data
        model = data["model"]
        _require_shape(data)
        self.kind = _kind(model)
        if self.kind == "Unigram":
            self.ids = {piece: number for number, (piece, _) in enumerate(model["vocab"])}
        else:
            self.ids = dict(model["vocab"])
        self.added = {entry["content"]: entry["id"] for entry in data.get("added_tokens") or ()}
        self.ids.update(self.added)
        self.tokens = {token_id: token for token, token_id in self.ids.items()}

    @cached_property
    def byte_ids(self) -> frozenset[int]:
        """Tokens that stand for single bytes; none where the tokenizer has no such fall-back."""
        if self.kind == "BPE" and '"ByteLevel"' in json.dumps(self.data.get("pre_tokenizer")):
            from tokenizers.pre_tokenizers import ByteLevel

            names: Collection[str] = ByteLevel.alphabet()
        elif self.data["model"].get("byte_fallback"):
            names = _BYTES
        else:
            names = ()
        return frozenset(self.ids[name] for name in names if name in self.ids)

    @cached_property
    def character_ids(self) -> frozenset[int]:
        """Tokens of one character (WordPiece: at the start and inside of words)."""
        inside = str(self.data["model"].get("continuing_subword_prefix") or "")
        found = {
            token_id for token, token_id in self.ids.items() if len(token.removeprefix(inside)) == 1
        }
        return frozenset(found)

    @cached_property
    def unknown_id(self) -> int | None:
        """The token of what cannot be written."""
        model = self.data["model"]
        if self.kind == "Unigram":
            found = model.get("unk_id")
            return None if found is None else int(found)
        return self.ids.get(model.get("unk_token") or "")

    def always(self) -> set[int]:
        """Ids that stay whatever the text has: added tokens, the unknown token."""
        kept = set(self.added.values())
        if self.unknown_id is not None:
            kept.add(self.unknown_id)
        if self.kind == "Unigram":  # the lowest score sets the price of an unknown character
            scores = [score for _, score in self.data["model"]["vocab"]]
            kept.add(scores.index(min(scores)))
        return kept

    def parts(self, token_id: int) -> set[int]:
        """The token and those without which it cannot be made."""
        if self._merges is None or token_id in self.added.values():
            return {token_id}
        names = self._merges.parts(self.tokens[token_id])
        return {token_id, *(self.ids[name] for name in names if name in self.ids)}

    def with_ids(self, new: Mapping[int, int]) -> dict[str, Any]:
        """The tokenizer with the tokens that `new` names, under their new ids. Raises `UserError`
        where its padding or processor is not of the kind that tokenizers writes."""
        with told_as_damage("the tokenizer", "fetch the tokenizer's files again"):
            return self._with_ids(new)

    def _with_ids(self, new: Mapping[int, int]) -> dict[str, Any]:
        data = copy.deepcopy(dict(self.data))
        model = data["model"]
        if self.kind == "Unigram":
            model["vocab"] = [one for old, one in enumerate(model["vocab"]) if old in new]
            if self.unknown_id is not None:
                model["unk_id"] = new[self.unknown_id]
        else:
            kept = {token: new[old] for token, old in model["vocab"].items() if old in new}
            model["vocab"] = dict(sorted(kept.items(), key=lambda item: item[1]))
        if self._merges is not None:
            model["merges"] = self._merges.among(model["vocab"])
        for entry in data.get("added_tokens") or ():
            entry["id"] = new[entry["id"]]
        if data.get("padding"):
            data["padding"]["pad_id"] = new[data["padding"]["pad_id"]]
        _renumber_processor(data.get("post_processor"), new)
        return data

    @cached_property
    def _merges(self) -> Merges | None:
        return Merges(self.data["model"]["merges"]) if self.kind == "BPE" else None


def _require_shape(data: Mapping[str, Any]) -> None:
    """Raise `TypeError` for what is no tokenizer and would be met in the middle of the work."""
    model, unigram = data["model"], data["model"].get("type") == "Unigram"
    rows = model["vocab"] if unigram else model["vocab"].items()
    for piece, number in rows:
        if not isinstance(piece, str) or type(number) not in ((int, float) if unigram else (int,)):
            raise TypeError(f"the vocabulary has {piece!r:.40}: {number!r:.40}")
    for entry in data.get("added_tokens") or ():
        if not isinstance(entry["content"], str) or type(entry["id"]) is not int:
            raise TypeError(f"added_tokens has {entry!r:.80}")
    if model.get("type") in (None, "BPE"):
        Merges(model["merges"])
    names = ("unk_token", "continuing_subword_prefix", "end_of_word_suffix")
    if not all(isinstance(model.get(name), str | None) for name in names):
        raise TypeError("the model names other than texts")


def _kind(model: Mapping[str, Any]) -> Kind:
    name = model.get("type") or "BPE"
    if name not in KINDS:
        raise UserError(
            f"the tokenizer is of type {name}; its vocabulary can be cut for {', '.join(KINDS)}",
            "leave prune-vocab out of the recipe for this model",
        )
    if name == "BPE" and (
        model.get("continuing_subword_prefix") or model.get("end_of_word_suffix")
    ):
        raise UserError(
            "the tokenizer marks the insides or ends of words in its merges, which cutting the "
            "vocabulary does not know",
            "leave prune-vocab out of the recipe for this model",
        )
    found: Kind = name
    return found


def _renumber_processor(processor: Any, new: Mapping[int, int]) -> None:
    """The ids that a post-processor adds around a text."""
    if not isinstance(processor, dict):
        return
    for inner in processor.get("processors") or ():
        _renumber_processor(inner, new)
    specials = processor.get("special_tokens")
    for entry in specials.values() if isinstance(specials, dict) else ():
        entry["ids"] = [new[old] for old in entry["ids"]]
    for key in ("sep", "cls"):
        if isinstance(processor.get(key), list):
            token, old = processor[key]
            processor[key] = [token, new[old]]
