"""The tokens that scores and recovery see, in batches of one length."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from common.errors import UserError
from toolchain.checkpoint.inspect import inspect
from toolchain.data.text import read_documents
from toolchain.hf import load_tokenizer, token_ids

LEAST_TOKENS = 256
_ROW_TOKENS = 512
_BATCH_ROWS = 8


@dataclass(frozen=True)
class Batch:
    """`ids` [rows, tokens], padded on the right; `valid` [rows, tokens] is False there."""

    ids: Any
    valid: Any

    @property
    def tokens(self) -> int:
        """Tokens that count."""
        return int(self.valid.sum())

    @cached_property
    def full(self) -> bool:
        """Whether no row is padded."""
        return bool(self.valid.all())

    def pieces(self, most_tokens: int) -> list[Batch]:
        """The batch's rows in batches of at most `most_tokens`, at least one row each."""
        rows = max(1, most_tokens // self.ids.shape[1])
        parts = zip(self.ids.split(rows), self.valid.split(rows), strict=True)
        return [Batch(ids, valid) for ids, valid in parts]

    def own(self, values: Any) -> Any:
        """Of `values` [rows, tokens, ...] those of the tokens that count, [tokens, ...]; no copy
        where no row is padded."""
        return values.flatten(0, 1) if self.full else values[self.valid]


def read_batches(
    text: Path, checkpoint: Path, most_tokens: int, seed: int, *, trust_remote_code: bool = False
) -> list[Batch]:
    """Documents of the text as batches, at most `most_tokens` tokens, chosen by `seed`.

    Raises `UserError` when the text is too short to tell anything.
    """
    from toolchain.compress.prune.answers import is_encoder

    tokenizer = load_tokenizer(checkpoint, trust_remote_code=trust_remote_code)
    encoder = is_encoder(checkpoint)
    width = _row_tokens(checkpoint, encoder)
    documents = read_documents(text, checkpoint)
    random.Random(seed).shuffle(documents)
    rows: list[list[int]] = []
    room = most_tokens
    for document in documents:
        ids = token_ids(tokenizer, document, add_special=True)
        ends = _ends(tokenizer) if encoder else ([], [])
        for row in _rows(ids, width, ends):
            row = row[:room]
            if len(row) > 1:
                rows.append(row)
                room -= len(row)
        if room < 2:
            break
    if most_tokens - room < LEAST_TOKENS:
        raise UserError(
            f"the calibration text {text.name} has {most_tokens - room} tokens, too few to tell "
            "what matters",
            f"give a text of at least {LEAST_TOKENS} tokens, better 16,000",
        )
    rows.sort(key=len)  # rows of one length have little padding
    return [_batch(rows[i : i + _BATCH_ROWS]) for i in range(0, len(rows), _BATCH_ROWS)]


def _row_tokens(checkpoint: Path, encoder: bool) -> int:
    """Tokens in a row. Where positions are learned there is none behind the last (some encoders
    keep the first two for padding)."""
    context = inspect(checkpoint).context_tokens or _ROW_TOKENS
    return min(_ROW_TOKENS, context - 2 if encoder else context)


def _ends(tokenizer: Any) -> tuple[list[int], list[int]]:
    """The special tokens before and behind every text of an encoder."""
    both = token_ids(tokenizer, "", add_special=True)
    return both[:1], both[1:]


def _rows(ids: list[int], width: int, ends: tuple[list[int], list[int]]) -> Iterator[list[int]]:
    """A document's tokens in rows of at most `width`, each between the special tokens."""
    before, behind = ends
    if not before:
        yield from (ids[start : start + width] for start in range(0, len(ids), width))
        return
    inner = ids[len(before) : len(ids) - len(behind)]
    step = width - len(before) - len(behind)
    for start in range(0, len(inner), step):
        yield [*before, *inner[start : start + step], *behind]


def _batch(rows: Sequence[Sequence[int]]) -> Batch:
    import torch

    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    return Batch(ids, torch.arange(width)[None] < lengths[:, None])
