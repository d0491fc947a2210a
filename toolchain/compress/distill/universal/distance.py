"""How far two distributions over different vocabularies are apart.

Both are sorted, whatever their tokens are called, and the differences are summed: the Wasserstein
distance where every two tokens are equally far from each other (Boizard et al. 2024,
arXiv:2402.12030). The shorter one is filled up with zeros.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def sorted_distance(student: Tensor, teacher: Tensor, temperature: float) -> Tensor:
    """Sum over ranks of how far the softened probabilities are apart, [n]: of logits [n, V] and
    [n, V']. Between 0 and 2."""
    import torch

    own, other = (
        (logits / temperature).softmax(-1).sort(-1, descending=True).values
        for logits in (student, teacher)
    )
    shared = min(own.shape[-1], other.shape[-1])
    apart = (own[:, :shared] - other[:, :shared]).abs().sum(-1)
    # Of the longer one's tail nothing is on the other side.
    return torch.add(apart, own[:, shared:].sum(-1) + other[:, shared:].sum(-1))
