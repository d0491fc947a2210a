"""One linear module's weights with zeros in them, by three methods.

Magnitude: the smallest weights of the matrix go (Han et al. 2015, arXiv:1506.02626). Wanda: the
smallest |weight| times norm of its input, in each output's row (Sun et al. 2023,
arXiv:2306.11695). SparseGPT: the smallest squared weight over the inverse Hessian's diagonal, in
blocks of columns, and what a zero changes is made up for by the columns behind it (Frantar and
Alistarh 2023, arXiv:2301.00774, algorithm 1). Weights are [outputs, inputs].
"""

from __future__ import annotations

import torch

from toolchain.compress.sparse.masks import choose, lowest_in_groups, lowest_of_all
from toolchain.compress.sparse.moments import inverse_root
from toolchain.compress.sparse.schedule import Target


def magnitude(weight: torch.Tensor, target: Target) -> torch.Tensor:
    """Zeros where the weights are smallest."""
    return weight.masked_fill(choose(weight, weight.abs(), target, by_row=False), 0)


def wanda(weight: torch.Tensor, energy: torch.Tensor, target: Target) -> torch.Tensor:
    """`energy` [inputs] is the mean of each input's square."""
    return weight.masked_fill(choose(weight, weight.abs() * energy.sqrt(), target, by_row=True), 0)


def sparsegpt(
    weight: torch.Tensor,
    moments: torch.Tensor,
    target: Target,
    block_columns: int = 128,
    damping: float = 0.01,
) -> torch.Tensor:
    """`moments` [inputs, inputs] is the mean of x·xᵀ. What is zero before stays zero."""
    weight, before = weight.clone(), weight == 0
    root = inverse_root(moments, damping)
    weight[:, moments.diagonal() == 0] = 0  # columns that see no input
    columns = weight.shape[1]
    for start in range(0, columns, block_columns):
        own = slice(start, min(start + block_columns, columns))
        block = weight[:, own]
        mask = None
        if target.size is None:
            scores = _scores(block, root[own, own], before[:, own])
            mask = lowest_of_all(scores, target.share)
        errors = _solve_block(block, root[own, own], before[:, own], mask, target)
        weight[:, own.stop :] -= errors @ root[own, own.stop :]
    return weight


def _solve_block(
    block: torch.Tensor,
    root: torch.Tensor,
    before: torch.Tensor,
    mask: torch.Tensor | None,
    target: Target,
) -> torch.Tensor:
    """Zero a block's columns in place, from left to right, each error moved to the columns behind;
    the errors. Patterns choose group by group, on weights that were updated already."""
    columns = block.T.contiguous()  # one column at a time: rows of this
    chosen = torch.zeros_like(before) if mask is None else mask
    errors = torch.zeros_like(columns)
    for i in range(len(columns)):
        if mask is None and target.size and target.zeros and i % target.size == 0:
            group = slice(i, i + target.size)
            scores = _scores(columns[group].T, root[group, group], before[:, group])
            chosen[:, group] = lowest_in_groups(scores, target.zeros, target.size)
        torch.mul(columns[i], chosen[:, i], out=errors[i]).div_(root[i, i])
        columns[i + 1 :].addr_(root[i, i + 1 :], errors[i], alpha=-1)
    block.copy_(columns.T.masked_fill(chosen, 0))
    return errors.T


def _scores(block: torch.Tensor, root: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
    return (block / root.diagonal()).square().masked_fill(before, -1)
