"""Medians, spread and ratios pair by pair: what a busy machine leaves trustworthy."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

LATENCY_PERCENTILES = (50, 95, 99)


@dataclass(frozen=True)
class Spread:
    """Median, quartiles and extremes of `count` values."""

    median: float
    low_quartile: float
    high_quartile: float
    minimum: float
    maximum: float
    count: int

    def as_json(self) -> dict[str, float]:
        return asdict(self)


def percentile(values: Sequence[float], percent: float) -> float:
    """Linear interpolation between order statistics (numpy's default, Hyndman and Fan's type 7)."""
    if not values:
        raise ValueError("no values")
    ordered = sorted(values)
    place = (len(ordered) - 1) * percent / 100
    below = math.floor(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def spread(values: Sequence[float]) -> Spread:
    """The spread of values; a `ValueError` without any."""
    return Spread(
        median=percentile(values, 50),
        low_quartile=percentile(values, 25),
        high_quartile=percentile(values, 75),
        minimum=min(values),
        maximum=max(values),
        count=len(values),
    )


def latencies(secs: Sequence[float]) -> dict[str, float]:
    """p50, p95 and p99 in seconds, and how many requests they come from."""
    points = {f"p{p}_sec": percentile(secs, p) for p in LATENCY_PERCENTILES}
    return {**points, "requests": len(secs)}


def paired_ratios(slow: Mapping[int, float], fast: Mapping[int, float]) -> list[float]:
    """`slow / fast` of each round that both have: how many times faster `fast` was, times given.

    Two engines of one round ran within seconds of each other and met about the same load, so that
    the ratio stands where the times do not.
    """
    return [slow[r] / fast[r] for r in sorted(slow.keys() & fast.keys()) if fast[r] > 0]


def geometric_mean(values: Sequence[float]) -> float:
    """The mean for ratios."""
    return math.exp(sum(map(math.log, values)) / len(values))
