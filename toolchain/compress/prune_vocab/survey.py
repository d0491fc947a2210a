"""What of a vocabulary would stay: the text's tokens, and those that must stay too."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.layout import find_layout
from toolchain.compress.prune_vocab.choose import Kept, choose
from toolchain.compress.prune_vocab.files import (
    config_with_ids,
    read_sentencepiece,
    read_tokenizer,
)
from toolchain.compress.prune_vocab.named_ids import named_ids
from toolchain.compress.prune_vocab.settings import Vocabulary
from toolchain.compress.prune_vocab.texts import kept_documents, template_documents
from toolchain.compress.prune_vocab.tokenizer_json import TokenizerJson
from toolchain.hf import load_tokenizer, token_ids


@dataclass(frozen=True)
class Survey:
    """What would stay, before anything is written. `template` are conversations as the chat
    template renders them, of which all tokens stay too."""

    tokenizer: TokenizerJson
    kept: Kept
    documents: tuple[str, ...]
    template: tuple[str, ...]
    notes: tuple[str, ...]


def survey(
    info: CheckpointInfo,
    texts: Sequence[Path],
    settings: Vocabulary,
    *,
    trust_remote_code: bool = False,
) -> Survey:
    """Count the text's tokens and choose. Raises `UserError`."""
    find_layout(info)
    tokenizer = read_tokenizer(info.path)
    documents = kept_documents(texts, info.path)
    named = named_ids(config_with_ids(info)) | named_ids(info.generation_config)
    for model in read_sentencepiece(info.path):
        if model.numbers_as(tokenizer):
            named |= model.always(keep_bytes=settings.keep_bytes)
    loaded = load_tokenizer(info.path, trust_remote_code=trust_remote_code)
    template = tuple(template_documents(info.path))
    named |= set(_count(loaded, template))
    counts = _count(loaded, documents)
    kept = choose(tokenizer, counts, named, settings)
    notes = tuple(_notes(info, tokenizer, kept, named, settings))
    return Survey(tokenizer, kept, documents, template, notes)


def _count(tokenizer: Any, documents: Sequence[str]) -> Counter[int]:
    """How often the documents have each token."""
    counts: Counter[int] = Counter()
    for document in documents:
        plain, whole = (
            Counter(token_ids(tokenizer, document, add_special=add_special))
            for add_special in (False, True)
        )
        counts.update(plain | whole)  # a first word may differ where BOS stands before it
    return counts


def _notes(
    info: CheckpointInfo,
    tokenizer: TokenizerJson,
    kept: Kept,
    named: set[int],
    settings: Vocabulary,
) -> list[str]:
    notes, rows = [], info.vocab_size or 0
    if rows > len(tokenizer.tokens):
        notes.append(f"{rows - len(tokenizer.tokens)} rows of the embedding belonged to no token "
                     "and are gone")  # fmt: skip
    if len(kept.ids) == len(tokenizer.tokens):
        notes.append("the text has use for every token: none was removed")
    elif len(kept.ids) % settings.multiple:
        notes.append(f"there are not enough tokens for a multiple of {settings.multiple}")
    if lost := sorted(named - set(tokenizer.tokens)):
        notes.append(f"config names ids that no token has, they are gone: {lost[:5]}")
    unknown = tokenizer.unknown_id
    if not (tokenizer.byte_ids and settings.keep_bytes):
        what = "nothing" if unknown is None else tokenizer.tokens[unknown]
        notes.append(f"no byte tokens stay: characters outside the vocabulary become {what}")
    return notes
