"""Cut evaluation documents into the token chunks that all models are run on, within a size cap."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import UserError


@dataclass(frozen=True)
class Chunks:
    """`tokens`: each chunk starts from an empty KV cache and is no longer than the context; every
    position but its last is scored. `available_tokens` counts before the cap."""

    tokens: tuple[tuple[int, ...], ...]
    available_tokens: int

    @property
    def positions(self) -> int:
        """Scored positions: those whose next token is known."""
        return sum(len(chunk) - 1 for chunk in self.tokens)


def choose_chunks(
    documents: Sequence[Sequence[int]],
    *,
    context_tokens: int,
    max_positions: int,
    bos_token_id: int | None,
    seed: int,
) -> Chunks:
    """Chunks of the tokenized documents; when there are too many, a random choice by `seed`.

    A document longer than the context is cut; where documents begin with BOS, so does every piece,
    as in llama-perplexity. A BOS that the chat template and the tokenizer both wrote is kept once.
    """
    if max_positions < 1:
        raise UserError("the cap leaves no token to evaluate on", "raise max_reference_bytes")
    pieces = [
        piece
        for document in documents
        for piece in _pieces(list(document), context_tokens, bos_token_id)
    ]
    if not pieces:
        raise UserError("the evaluation text is too short", "give a text of some thousand tokens")
    order = list(range(len(pieces)))
    random.Random(seed).shuffle(order)
    chosen: dict[int, tuple[int, ...]] = {}
    room = max_positions
    for i in order:
        if room < 1:
            break
        chosen[i] = tuple(pieces[i][: room + 1])
        room -= len(chosen[i]) - 1
    return Chunks(tuple(chosen[i] for i in sorted(chosen)), sum(map(len, documents)))


def _pieces(document: list[int], context_tokens: int, bos: int | None) -> list[list[int]]:
    if bos is not None and document[:2] == [bos, bos]:
        document = document[1:]
    head = document[:1] if bos is not None and document[:1] == [bos] else []
    body = document[len(head) :]
    step = context_tokens - len(head)
    pieces = [head + body[i : i + step] for i in range(0, len(body), step)]
    return [piece for piece in pieces if len(piece) > 1]
