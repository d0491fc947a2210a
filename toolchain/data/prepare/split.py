"""Which split an example belongs to: decided by its prompt and the seed alone.

Rows that are added or removed leave the others where they were, and what was held out once never
comes into training later. The shares are therefore those of a hash: exact for many rows, near for
few.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

from common.errors import UserError

SPLITS = ("train", "validation", "test")
# Beside them, where there are any: a classifier's texts without a label, for its teacher to judge.
UNLABELLED_FILE = "unlabelled.jsonl"
_SCALE = float(1 << 64)


def parse_ratios(text: str) -> tuple[float, float, float]:
    """`0.8,0.1,0.1` as shares of train, validation and test; they must add up to 1."""
    mend = "give three shares that add up to 1, for example --split 0.8,0.1,0.1"
    try:
        shares = [float(part) for part in text.split(",")]
    except ValueError:
        raise UserError(f"--split {text} is not made of numbers", mend) from None
    if len(shares) != len(SPLITS):
        raise UserError(f"--split {text} has {len(shares)} shares, not 3", mend)
    if any(not math.isfinite(share) or share < 0 for share in shares):
        raise UserError(f"--split {text} has a share that is no number from 0 to 1", mend)
    if abs(sum(shares) - 1) > 1e-6:
        raise UserError(f"--split {text} adds up to {sum(shares):g}, not 1", mend)
    if shares[0] == 0:
        raise UserError(f"--split {text} leaves nothing to train on", mend)
    return shares[0], shares[1], shares[2]


@dataclass(frozen=True)
class Assigner:
    """Prompt digest → split. `moved` are prompts put elsewhere so that no wanted split is empty."""

    ratios: tuple[float, float, float]
    seed: int
    moved: Mapping[bytes, str] = field(default_factory=dict)

    def split_of(self, prompt: bytes) -> str:
        """The split of all examples with this prompt (its digest)."""
        if prompt in self.moved:
            return self.moved[prompt]
        point, border = position(prompt, self.seed), 0.0
        for name, share in zip(SPLITS, self.ratios, strict=True):
            border += share
            if point < border:
                return name
        return next(n for n, s in reversed([*zip(SPLITS, self.ratios, strict=True)]) if s > 0)


def position(prompt: bytes, seed: int) -> float:
    """A number in [0, 1) that looks random and follows from prompt and seed."""
    hashed = hashlib.blake2b(prompt, digest_size=8, key=str(seed).encode()).digest()
    return int.from_bytes(hashed, "big") / _SCALE


def fill_empty(
    assigner: Assigner, prompts: Mapping[str, list[bytes]], counts: Mapping[str, int]
) -> Assigner | None:
    """An assigner that gives every split with a share one prompt at least.

    `prompts`: (some) prompts of each split; `counts`: rows of each split. `None` when no wanted
    split is empty; the smallest files only need it. Raises `UserError` when there are too few
    prompts.
    """
    wanted = [n for n, s in zip(SPLITS, assigner.ratios, strict=True) if s > 0]
    empty = [name for name in wanted if not counts[name]]
    if not empty:
        return None
    spare = {name: sorted(set(prompts[name])) for name in SPLITS}
    moved: dict[bytes, str] = {}
    for name in empty:
        donor = max(spare, key=lambda n: len(spare[n]))
        if len(spare[donor]) < 2:
            total = sum(len(found) for found in spare.values())
            raise UserError(
                f"{total} different prompts are too few for {len(wanted)} splits",
                "give more rows, or fewer splits: --split 1,0,0",
            )
        moved[spare[donor].pop()] = name
    return Assigner(assigner.ratios, assigner.seed, moved)
