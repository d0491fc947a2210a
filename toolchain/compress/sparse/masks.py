"""Which weights of one linear module go: masks, True where a weight becomes zero.

Exact counts: ties go by place. What is zero before stays so.
"""

from __future__ import annotations

import torch

from toolchain.compress.sparse.schedule import Target


def lowest_of_all(scores: torch.Tensor, share: float) -> torch.Tensor:
    """The lowest share of a whole matrix."""
    return lowest_in_rows(scores.reshape(1, -1), share).view(scores.shape)


def lowest_in_rows(scores: torch.Tensor, share: float) -> torch.Tensor:
    """The lowest share of each row."""
    return _lowest(scores, int(scores.shape[1] * share + 0.5))


def lowest_in_groups(scores: torch.Tensor, zeros: int, size: int) -> torch.Tensor:
    """The lowest `zeros` of every `size` neighbours in a row."""
    return _lowest(scores.reshape(-1, size), zeros).view(scores.shape)


def choose(
    weight: torch.Tensor, scores: torch.Tensor, target: Target, *, by_row: bool
) -> torch.Tensor:
    """What the target asks for."""
    scores = scores.masked_fill(weight == 0, -1)
    if target.zeros is not None and target.size is not None:
        return lowest_in_groups(scores, target.zeros, target.size)
    return (lowest_in_rows if by_row else lowest_of_all)(scores, target.share)


def _lowest(rows: torch.Tensor, count: int) -> torch.Tensor:
    mask = torch.zeros(rows.shape, dtype=torch.bool)
    order = rows.sort(dim=1, stable=True).indices[:, :count]
    return mask.scatter_(1, order, True)
