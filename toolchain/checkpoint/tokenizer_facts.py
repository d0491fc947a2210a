"""What kind of tokenizer a checkpoint has and which ids it gives, without loading it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_object

_SENTENCEPIECE_FILES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_MEND = "fetch the tokenizer's files again"


@dataclass(frozen=True)
class TokenizerFacts:
    """`kind`: bpe (byte-level), sentencepiece (BPE over pieces), unigram, wordpiece, wordlevel,
    tekken, tiktoken or unreadable; None: there is no tokenizer. `ids`: highest token id plus one,
    None where the format does not tell."""

    kind: str | None
    ids: int | None


def tokenizer_facts(folder: Path) -> TokenizerFacts:
    """The tokenizer's kind and ids; kind None without tokenizer, `UserError` for a broken one."""
    if (folder / "tokenizer.json").is_file():
        return _from_tokenizer_json(folder)
    added = max(_added_elsewhere(folder), default=-1) + 1
    for name in _SENTENCEPIECE_FILES:
        if (folder / name).is_file():
            pieces = _sentencepiece_pieces(folder / name)
            return TokenizerFacts("sentencepiece", max(pieces, added))
    if (folder / "vocab.json").is_file() and (folder / "merges.txt").is_file():
        return TokenizerFacts("bpe", max(_highest(read_object(folder / "vocab.json")) + 1, added))
    if (folder / "vocab.txt").is_file():
        lines = (folder / "vocab.txt").read_text(encoding="utf-8", errors="replace").split("\n")
        return TokenizerFacts("wordpiece", max(len(lines) - (lines[-1] == ""), added))
    if (folder / "tekken.json").is_file():
        return TokenizerFacts("tekken", None)
    if any(folder.glob("*.tiktoken")):
        return TokenizerFacts("tiktoken", None)
    return TokenizerFacts(None, None)


def _from_tokenizer_json(folder: Path) -> TokenizerFacts:
    data = read_object(folder / "tokenizer.json")
    model = data.get("model")
    vocab = model.get("vocab") if isinstance(model, dict) else None
    if not isinstance(model, dict) or not isinstance(vocab, dict | list) or not vocab:
        raise UserError("tokenizer.json has no model with a vocabulary", _MEND)
    highest = len(vocab) - 1 if isinstance(vocab, list) else _highest(vocab)
    added = data.get("added_tokens")
    ids = [_id_of(entry) for entry in added] if isinstance(added, list) else []
    highest = max([highest, *ids, *_added_elsewhere(folder)])
    return TokenizerFacts(_kind(data, model), highest + 1)


def _kind(data: Mapping[str, Any], model: Mapping[str, Any]) -> str:
    kind = str(model.get("type") or "BPE").lower()
    if kind != "bpe":
        return kind
    spaces = str(data.get("pre_tokenizer")) + str(data.get("normalizer"))
    byte_level = "ByteLevel" in spaces
    pieces = model.get("byte_fallback") or ("▁" in spaces and not byte_level)
    return "sentencepiece" if pieces else "bpe"


def _added_elsewhere(folder: Path) -> Iterator[int]:
    """Ids of tokens that files beside the vocabulary add to it."""
    if (folder / "added_tokens.json").is_file():
        yield _highest(read_object(folder / "added_tokens.json"))
    if (folder / "tokenizer_config.json").is_file():
        added = read_object(folder / "tokenizer_config.json").get("added_tokens_decoder")
        for token_id in added if isinstance(added, dict) else ():
            if token_id.isdecimal():
                yield int(token_id)


def _highest(vocab: Mapping[str, Any]) -> int:
    ids = list(vocab.values())
    if not all(type(token_id) is int for token_id in ids):
        raise UserError("the tokenizer's vocabulary has ids that are no whole numbers", _MEND)
    return max(ids, default=-1)


def _id_of(entry: Any) -> int:
    token_id = entry.get("id") if isinstance(entry, dict) else None
    if type(token_id) is not int:
        raise UserError(f"tokenizer.json has an added token without id: {str(entry)[:80]}", _MEND)
    return token_id


def _sentencepiece_pieces(path: Path) -> int:
    """Number of pieces in a SentencePiece model: field 1 of its protobuf, repeated."""
    data = path.read_bytes()
    position, pieces = 0, 0
    try:
        while position < len(data):
            tag, position = _varint(data, position)
            length, position = _field_length(data, position, tag & 7)
            position += length
            pieces += tag >> 3 == 1
        if position != len(data) or not pieces:
            raise ValueError("no pieces")
    except (IndexError, ValueError):
        raise UserError(f"{path.name} is no SentencePiece model", _MEND) from None
    return pieces


def _field_length(data: bytes, position: int, wire_type: int) -> tuple[int, int]:
    """Bytes of a protobuf field's value, and where the value starts."""
    if wire_type == 0:
        return _varint(data, position)[1] - position, position
    if wire_type == 2:
        return _varint(data, position)
    fixed = {1: 8, 5: 4}
    if wire_type not in fixed:
        raise ValueError(f"wire type {wire_type}")
    return fixed[wire_type], position


def _varint(data: bytes, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
