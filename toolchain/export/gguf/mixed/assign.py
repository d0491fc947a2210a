"""Choose one option for each tensor so that the sum of their KLDs is least within a size.

    found = assign({"blk.0.attn_q.weight": [Option("Q4_K", 36864, 3e-5), …], …}, limit_bytes)

A multiple-choice knapsack. Dynamic programming over bytes (Kellerer, Pferschy, Pisinger 2004,
"Knapsack Problems", chapter 11) is exact where the sizes share a unit that is large enough, as
tensors of whole blocks do; else sizes are rounded up. A second limit, on decode time, goes into the
sum with a multiplier (Lagrange). The bound, which no choice can pass, is that of the multipliers
alone, so the gap to it is proven, whatever the programming did.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_MOST_STATES = 1 << 17
_HALVINGS = 60
_TIME_HALVINGS = 24


@dataclass(frozen=True)
class Option:
    """A type that a tensor may have: what it costs in bytes, in KLD (nats) and in decode time (any
    unit that all share)."""

    type: str
    size_bytes: int
    kld: float
    time: float = 0.0


Options = Mapping[str, Sequence[Option]]


@dataclass(frozen=True)
class Assignment:
    """The choice, by tensor. `bound_kld` is a sum that no choice within the limits is below;
    `exact` says that the search was exhaustive and no limit but bytes was set."""

    options: Mapping[str, Option]
    bound_kld: float
    exact: bool

    @property
    def size_bytes(self) -> int:
        return sum(option.size_bytes for option in self.options.values())

    @property
    def kld(self) -> float:
        return sum(option.kld for option in self.options.values())

    @property
    def time(self) -> float:
        return sum(option.time for option in self.options.values())

    @property
    def gap(self) -> float:
        """How far the sum may be above the least one, as a share of it; 0 for an exact choice."""
        if self.exact or self.kld <= self.bound_kld:
            return 0.0
        return self.kld / self.bound_kld - 1 if self.bound_kld > 0 else math.inf


def assign(
    tensors: Options, limit_bytes: int, limit_time: float | None = None
) -> Assignment | None:
    """The choice with the least sum within the limits, or None where even the smallest (the
    fastest) options are beyond one."""
    useful = {name: _undominated(options) for name, options in tensors.items()}
    found = _within_bytes(useful, limit_bytes)
    if found is None or limit_time is None or found.time <= limit_time:
        return found
    return _within_time(useful, limit_bytes, limit_time)


def _undominated(options: Sequence[Option]) -> list[Option]:
    """Without those that another one beats or equals in everything."""
    kept: list[Option] = []
    for one in sorted(options, key=lambda o: (o.size_bytes, o.kld, o.time)):
        if not any(o.kld <= one.kld and o.time <= one.time for o in kept):
            kept.append(one)
    return kept


def _within_time(tensors: Options, limit_bytes: int, limit_time: float) -> Assignment | None:
    """Time joins the sum with the least multiplier that keeps the limit. Each multiplier's optimum,
    less the multiplier's share of the limit, is a bound for the real sum."""
    best: Assignment | None = None
    bound = 0.0
    low, high = 0.0, 1.0
    at = functools.partial(_with_multiplier, tensors, limit_bytes)
    while (found := at(high)) is not None and found.time > limit_time and high < 1e12:
        bound = max(bound, found.bound_kld - high * limit_time)
        low, high = high, high * 8
    for _ in range(_TIME_HALVINGS):
        middle = math.sqrt(low * high) if low > 0 else high / 64
        found = at(middle)
        if found is None:
            return None
        bound = max(bound, found.bound_kld - middle * limit_time)
        if found.time > limit_time:
            low = middle
            continue
        high = middle
        real = _with_klds(tensors, found)
        if best is None or real.kld < best.kld:
            best = real
    return None if best is None else replace(best, bound_kld=bound, exact=False)


def _with_multiplier(tensors: Options, limit_bytes: int, multiplier: float) -> Assignment | None:
    priced = {
        name: [replace(o, kld=o.kld + multiplier * o.time) for o in options]
        for name, options in tensors.items()
    }
    return _within_bytes(priced, limit_bytes)


def _with_klds(tensors: Options, found: Assignment) -> Assignment:
    """The same choice with its real KLDs."""
    own = {
        name: next(o for o in options if o.type == found.options[name].type)
        for name, options in tensors.items()
    }
    return replace(found, options=own)


def _within_bytes(tensors: Options, limit_bytes: int) -> Assignment | None:
    smallest = {name: min(o.size_bytes for o in options) for name, options in tensors.items()}
    room = limit_bytes - sum(smallest.values())
    if room < 0:
        return None
    excess = {
        name: [o.size_bytes - smallest[name] for o in options] for name, options in tensors.items()
    }
    unit = math.gcd(*(more for own in excess.values() for more in own)) or 1
    exact = room // unit <= _MOST_STATES
    if not exact:
        unit = math.ceil(room / _MOST_STATES)
    # What all tensors together could use bounds the states too.
    most = sum(max(math.ceil(more / unit) for more in own) for own in excess.values())
    states = min(room // unit, most) + 1
    picked = _programmed(tensors, excess, unit, states)
    options = {name: tensors[name][number] for name, number in picked.items()}
    return Assignment(options, _bound(tensors, limit_bytes), exact)


def _programmed(
    tensors: Options, excess: Mapping[str, Sequence[int]], unit: int, states: int
) -> dict[str, int]:
    """The number of each tensor's option. After a tensor, `least[n]` is the least sum of all so far
    that take at most `n` units."""
    import numpy as np

    least: NDArray[np.float64] = np.zeros(states)
    choices: list[NDArray[np.uint8]] = []
    for name, options in tensors.items():
        made = np.full(states, np.inf)
        choice = np.zeros(states, np.uint8)
        for number, option in enumerate(options):
            units = math.ceil(excess[name][number] / unit)
            if units >= states:
                continue
            own = least[: states - units] + option.kld
            better = own < made[units:]
            made[units:][better] = own[better]
            choice[units:][better] = number
        least = made
        choices.append(choice)
    state = states - 1
    picked = {}
    for name, choice in zip(reversed(list(tensors)), reversed(choices), strict=True):
        number = int(choice[state])
        picked[name] = number
        state -= math.ceil(excess[name][number] / unit)
    return picked


def _bound(tensors: Options, limit_bytes: int) -> float:
    """The best lower bound with a multiplier on bytes. It is concave in the multiplier, and the
    bytes that its choice takes tell on which side the best one lies."""

    def relaxed(multiplier: float) -> tuple[float, int]:
        best = [
            min(options, key=lambda o: (o.kld + multiplier * o.size_bytes, o.size_bytes))
            for options in tensors.values()
        ]
        size = sum(option.size_bytes for option in best)
        return sum(o.kld for o in best) + multiplier * (size - limit_bytes), size

    bound, size = relaxed(0.0)
    if size <= limit_bytes:
        return bound
    low, high = 1e-24, 1e6
    for _ in range(_HALVINGS):
        middle = math.sqrt(low * high)
        value, size = relaxed(middle)
        bound = max(bound, value)
        low, high = (middle, high) if size > limit_bytes else (low, middle)
    return bound
