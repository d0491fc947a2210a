"""One matrix rounded into blocks: each column's error is made up for by the columns behind it.

Frantar et al. 2022 (GPTQ, arXiv:2210.17323). The scales of a block are found when its turn comes,
by ggml's own search on the weights as they have become, a column's error weighed by what it costs
after all columns behind have made up for it. Weights are [outputs, inputs].
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

from runtimes.ggml_blocks import block_columns, quantize_rows
from runtimes.ggml_codes import CODED, with_codes
from toolchain.compress.exact.grid import Grid
from toolchain.compress.sparse.moments import inverse_root

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def gptq(
    weight: torch.Tensor, moments: torch.Tensor, kind: str, damping: float = 0.01
) -> NDArray[np.uint8]:
    """The blocks (rows, bytes of a row) of a weight as tensor type `kind`; `moments`
    [inputs, inputs] is the mean of x·xᵀ. A type whose codes are not known gets the nearest values,
    weighed by the mean squared inputs."""
    import numpy as np

    weight = weight.detach().float().clone()
    if kind not in CODED:
        return quantize_rows(weight.numpy(), kind, moments.diagonal().float().numpy())
    root = inverse_root(moments, damping)
    cost = root.diagonal().square().reciprocal()
    size = block_columns(kind)
    made = []
    for start in range(0, weight.shape[1], size):
        own = slice(start, start + size)
        found = quantize_rows(weight[:, own].numpy(), kind, cost[own].numpy())
        codes, errors = _solve_block(weight[:, own], root[own, own], Grid.of(found, kind))
        made.append(with_codes(found, kind, codes.numpy()))
        weight[:, own.stop :] -= errors @ root[own, own.stop :]
    return np.concatenate(made, axis=1)


def _solve_block(
    block: torch.Tensor, root: torch.Tensor, grid: Grid
) -> tuple[torch.Tensor, torch.Tensor]:
    """Codes [outputs, columns] of a block, from left to right, each error moved to the columns
    behind; the codes and the errors."""
    columns = block.T.contiguous()  # one column at a time: rows of this
    base, step = grid.base.T.contiguous(), grid.step.T.contiguous()
    per_value = torch.where(step == 0, 0, 1 / step)  # a block of zeros has no steps
    codes, errors = torch.zeros_like(columns), torch.zeros_like(columns)
    for i in range(len(columns)):
        code = grid.nearest((columns[i] - base[i]) * per_value[i])
        codes[i] = code
        value = base[i] + step[i] * grid.steps_of(code)
        torch.sub(columns[i], value, out=errors[i]).div_(root[i, i])
        columns[i + 1 :].addr_(root[i, i + 1 :], errors[i], alpha=-1)
    return codes.T.to(torch.uint8), errors.T
