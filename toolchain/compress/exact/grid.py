"""The values that a block's scales allow each weight: found once, then rounding needs no search.

grid = Grid.of(blocks, "Q4_0")
values, blocks = grid.values(weight), grid.blocks(weight)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtimes.ggml_codes import code_count, grid, with_codes

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Grid:
    """Blocks of a tensor type `kind` whose scales are held: a weight is `base + step * code`, all
    [rows, columns], with whole codes from 0 to `highest`."""

    kind: str
    held: NDArray[np.uint8]
    base: torch.Tensor
    step: torch.Tensor
    highest: int

    @classmethod
    def of(cls, blocks: NDArray[np.uint8], kind: str) -> Grid:
        """The grid of blocks (rows, bytes of a row) of a type whose codes are known."""
        import torch

        base, step = (torch.from_numpy(values) for values in grid(blocks, kind))
        return cls(kind, blocks, base, step, code_count(kind) - 1)

    def codes(self, weight: torch.Tensor) -> torch.Tensor:
        """The codes of the nearest values, as floats; 0 in a block of zeros, which has no steps."""
        base, step = self.base.to(weight.device), self.step.to(weight.device)
        found = ((weight - base) / step).round().clamp(0, self.highest)
        return found.masked_fill_(step == 0, 0)

    def values(self, weight: torch.Tensor) -> torch.Tensor:
        """The nearest values; the last bit may differ from what the file's reader computes."""
        base, step = self.base.to(weight.device), self.step.to(weight.device)
        return (base + step * self.codes(weight)).to(weight.dtype)

    def blocks(self, weight: torch.Tensor) -> NDArray[np.uint8]:
        """The blocks of the nearest values."""
        import torch

        return with_codes(self.held, self.kind, self.codes(weight).to("cpu", torch.uint8).numpy())
