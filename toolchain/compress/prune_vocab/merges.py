"""BPE merges: which tokens a token is built of, and the merges that a smaller vocabulary keeps.

Within the span of a token that a text gets, no merge across its ends was made; so the merges inside
are those that build the token alone, in the same order. Leaving out other merges, whose pairs the
text never joined, changes nothing there.
"""

from __future__ import annotations

import itertools
from collections.abc import Container, Sequence
from typing import Any

_NEVER = 1 << 60


class Merges:
    """The merges of a tokenizer.json, in order of rank: each "left right" or [left, right]."""

    def __init__(self, merges: Sequence[Any]) -> None:
        self._merges = merges
        self._ranks = {pair_of(merge): rank for rank, merge in enumerate(merges)}

    def parts(self, token: str) -> list[str]:
        """The token and everything it is built of; the token alone when merges do not build it."""
        symbols = list(token)
        made = list(symbols)
        while len(symbols) > 1:
            ranks = [self._ranks.get(pair, _NEVER) for pair in itertools.pairwise(symbols)]
            best = min(ranks)
            if best == _NEVER:
                return [token]
            at = ranks.index(best)
            symbols[at : at + 2] = [symbols[at] + symbols[at + 1]]
            made.append(symbols[at])
        return made

    def among(self, tokens: Container[str]) -> list[Any]:
        """The merges whose pair and result are among the tokens, in order."""
        kept = []
        for merge in self._merges:
            left, right = pair_of(merge)
            if left in tokens and right in tokens and left + right in tokens:
                kept.append(merge)
        return kept


def pair_of(merge: Any) -> tuple[str, str]:
    """Left and right of a merge in either spelling."""
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left, right
