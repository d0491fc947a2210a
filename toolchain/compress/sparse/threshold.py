"""One threshold for the weights of a whole network, found without holding them: exact.

Bits of a non-negative float32 are ordered as its values are, so two counts of 2^16 bins (upper
half, then the lower half within one bin) find the value of any rank.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

_HALF = 16


@dataclass
class Threshold:
    """Weights below `bits` go, and of those equal to it the first `ties`."""

    bits: int
    ties: int


def global_threshold(
    read: Callable[[str], torch.Tensor], names: Sequence[str], share: float
) -> Threshold:
    """The threshold under which `share` of all the named tensors' values lie."""
    upper = sum(_count(_bits(read(name)) >> _HALF) for name in names)
    assert isinstance(upper, torch.Tensor)
    wanted = round(int(upper.sum()) * share)
    if wanted == 0:
        return Threshold(0, 0)
    high, left = _at_rank(upper, wanted)
    lower = sum(_count(_within(_bits(read(name)), high)) for name in names)
    assert isinstance(lower, torch.Tensor)
    low, left = _at_rank(lower, left)
    return Threshold((high << _HALF) + low, left)


def cut_below(weight: torch.Tensor, limit: Threshold) -> torch.Tensor:
    """The tensor with its zeros; the ties that it takes are taken from `limit`."""
    bits = _bits(weight)
    mask = bits < limit.bits
    equal = (bits == limit.bits).flatten().nonzero()[: limit.ties, 0]
    limit.ties -= len(equal)
    mask.view(-1)[equal] = True
    return weight.masked_fill(mask, 0)


def _bits(weight: torch.Tensor) -> torch.Tensor:
    return weight.float().abs().contiguous().view(torch.int32)


def _within(bits: torch.Tensor, high: int) -> torch.Tensor:
    own = bits[(bits >> _HALF) == high]
    return own & ((1 << _HALF) - 1)


def _count(bins: torch.Tensor) -> torch.Tensor:
    return torch.bincount(bins.flatten(), minlength=1 << _HALF)


def _at_rank(counts: torch.Tensor, rank: int) -> tuple[int, int]:
    """The bin that holds the value of this rank (from 1), and its rank within the bin."""
    sums = counts.cumsum(0)
    found = int((sums < rank).sum())
    before = int(sums[found - 1]) if found else 0
    return found, rank - before
