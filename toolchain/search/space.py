"""What a search may vary, as lists of choices, and one point of it.

Choices are kept in a sensible order (smaller types first), so that a sampler that believes in order
learns from neighbours.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

MIX = "mix"
# Groups of tensors whose type may differ from the mix: regular expressions on GGUF names.
GROUPS = {
    "embedding": r"^token_embd\.weight$",
    "output": r"^output\.weight$",
    "attn_v": r"attn_v\.weight$",
    "ffn_down": r"ffn_down(_exps|_shexp)?\.weight$",
}
GROUP_TYPES = (MIX, "Q4_K", "Q6_K", "Q8_0")
# Tried beside the target's own types, where none are named.
MORE_TYPES = ("Q3_K_M", "IQ4_XS", "Q4_K_S")
RATIOS = (0.0, 0.1, 0.2)
KV_CACHE_TYPES = ("q4_0", "q8_0", "f16")
MOST_LISTED = 20_000  # points of a space that are still looked at one by one


@dataclass(frozen=True)
class Point:
    """One candidate. `tensor_types` are (group, type) of the groups that leave the mix; `threads`
    None leaves the target's."""

    quantization: str
    tensor_types: tuple[tuple[str, str], ...] = ()
    prune_ratio: float = 0.0
    context_tokens: int | None = None
    kv_cache_type: str | None = None
    threads: int | None = None

    def patterns(self) -> dict[str, str]:
        """As a recipe's `export.tensor_types` has them."""
        return {GROUPS[group]: name for group, name in self.tensor_types}

    def text(self) -> str:
        """In one line."""
        parts = [self.quantization, *(f"{group} {name}" for group, name in self.tensor_types)]
        parts += [f"prune {self.prune_ratio:g}"] if self.prune_ratio else []
        parts += [f"context {self.context_tokens}"] if self.context_tokens else []
        parts += [f"KV {self.kv_cache_type}"] if self.kv_cache_type else []
        parts += [f"{self.threads} threads"] if self.threads else []
        return ", ".join(parts)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "tensor_types": dict(self.tensor_types)}


def point_of(data: Mapping[str, Any]) -> Point:
    """The point that `as_json` wrote."""
    return Point(**{**data, "tensor_types": tuple(sorted(data["tensor_types"].items()))})


@dataclass(frozen=True)
class Space:
    """Dimension → its choices. A dimension with one choice is fixed."""

    choices: Mapping[str, tuple[Any, ...]]

    @property
    def size(self) -> int:
        """How many points there are, those that give the same file counted each."""
        total = 1
        for choices in self.choices.values():
            total *= len(choices)
        return total

    @property
    def open(self) -> dict[str, int]:
        """The dimensions that vary, and how many choices each has."""
        return {name: len(choices) for name, choices in self.choices.items() if len(choices) > 1}

    def at(self, indices: Mapping[str, int]) -> Point:
        """The point with these choices; fixed dimensions need not be named."""
        value = {name: found[indices.get(name, 0)] for name, found in self.choices.items()}
        types = tuple((group, value[group]) for group in GROUPS if value.get(group, MIX) != MIX)
        return Point(
            quantization=value["quantization"],
            tensor_types=tuple(sorted(types)),
            prune_ratio=value["prune_ratio"],
            context_tokens=value["context_tokens"],
            kv_cache_type=value["kv_cache_type"],
            threads=value["threads"],
        )

    def indices(self, point: Point) -> dict[str, int] | None:
        """The inverse of `at`, for the open dimensions; None for a point outside."""
        given = {**dict.fromkeys(GROUPS, MIX), **dict(point.tensor_types)}
        plain = asdict(point)
        found = {}
        for name, choices in self.choices.items():
            value = given[name] if name in GROUPS else plain[name]
            if value not in choices:
                return None
            if len(choices) > 1:
                found[name] = choices.index(value)
        return found

    def points(self) -> Iterator[dict[str, int]]:
        """Every point, as indices of the open dimensions."""
        for values in itertools.product(*(range(count) for count in self.open.values())):
            yield dict(zip(self.open, values, strict=True))

    def neighbours(self, indices: Mapping[str, int]) -> list[dict[str, int]]:
        """Points one step away in one dimension."""
        return [
            {**indices, name: at}
            for name, count in self.open.items()
            for at in (indices[name] - 1, indices[name] + 1)
            if 0 <= at < count
        ]

    def drawn(self, chance: random.Random, count: int) -> list[dict[str, int]]:
        """So many points at random; all of them in random order where there are few."""
        if self.size <= MOST_LISTED:
            every = list(self.points())
            chance.shuffle(every)
            return every
        open_ones = self.open
        return [{name: chance.randrange(n) for name, n in open_ones.items()} for _ in range(count)]

    def as_json(self) -> dict[str, list[Any]]:
        return {name: list(choices) for name, choices in self.choices.items()}


def ordered(names: Sequence[str], bytes_of: Mapping[str, int]) -> tuple[str, ...]:
    """Types by size, the smallest first."""
    return tuple(sorted(names, key=lambda name: bytes_of[name]))
