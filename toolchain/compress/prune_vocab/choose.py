"""Which tokens stay: those of the text and what they are built of, those that always stay, and as
many others as make the size a multiple."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property

from toolchain.compress.prune_vocab.settings import Vocabulary
from toolchain.compress.prune_vocab.tokenizer_json import TokenizerJson


@dataclass(frozen=True)
class Kept:
    """Old ids that stay, in order; `why` counts them by the first reason."""

    ids: tuple[int, ...]
    why: Mapping[str, int]

    @cached_property
    def new(self) -> dict[int, int]:
        """Old id → new id."""
        return {old: number for number, old in enumerate(self.ids)}


def choose(
    tokenizer: TokenizerJson, counts: Counter[int], named: Iterable[int], settings: Vocabulary
) -> Kept:
    """`counts` are the text's tokens; `named` are ids that configs and other files name."""
    kept: set[int] = set()
    why: dict[str, int] = {}

    def add(reason: str, ids: Iterable[int]) -> None:
        before = len(kept)
        for token_id in ids:
            kept.update(tokenizer.parts(token_id))
        why[reason] = len(kept) - before

    add("always", tokenizer.always() | (set(named) & set(tokenizer.tokens)))
    if settings.keep_bytes:
        add("bytes", tokenizer.byte_ids)
    if settings.keep_characters and not tokenizer.byte_ids:
        add("characters", tokenizer.character_ids)
    add("text", (i for i, count in counts.items() if count >= settings.min_count))
    before = len(kept)
    _fill(tokenizer, kept, counts, -len(kept) % settings.multiple)
    why["filled"] = len(kept) - before
    return Kept(tuple(sorted(kept)), why)


def _fill(tokenizer: TokenizerJson, kept: set[int], counts: Counter[int], room: int) -> None:
    """Add the most frequent of the others, then those of the lowest ids (trainers number by
    frequency), each with what it is built of."""
    others = sorted(set(tokenizer.tokens) - kept, key=lambda i: (-counts[i], i))
    for token_id in others:
        if room == 0:
            return
        more = tokenizer.parts(token_id) - kept
        if len(more) <= room:
            kept |= more
            room -= len(more)
