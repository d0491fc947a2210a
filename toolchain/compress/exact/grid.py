"""The values that a block's scales allow each weight: found once, then rounding needs no search.

grid = Grid.of(blocks, "Q4_0")
values, blocks = grid.values(weight), grid.blocks(weight)
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import TYPE_CHECKING

from runtimes.ggml_codes import grid, levels, with_codes

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Steps:
    """What values there are: a weight is `base + step * levels[code]`. `base` and `step` have the
    weight's shape, or one that goes with it; `levels` [codes] ascend."""

    base: torch.Tensor
    step: torch.Tensor
    levels: torch.Tensor

    def nearest(self, steps: torch.Tensor) -> torch.Tensor:
        """The codes, as floats, of the levels that are nearest to numbers of steps."""
        import torch

        if self._even:
            return steps.round().clamp_(0, len(self.levels) - 1)
        between = (self.levels[1:] + self.levels[:-1]) / 2
        return torch.bucketize(steps, between.to(steps.device)).to(steps.dtype)

    def steps_of(self, codes: torch.Tensor) -> torch.Tensor:
        """How many steps the codes count."""
        return codes if self._even else self.levels.to(codes.device)[codes.long()]

    def codes(self, weight: torch.Tensor) -> torch.Tensor:
        """The codes of the nearest values, as floats; 0 in a block of zeros, which has no steps."""
        base, step = self.base.to(weight.device), self.step.to(weight.device)
        return self.nearest((weight - base) / step).masked_fill_(step == 0, 0)

    def values(self, weight: torch.Tensor) -> torch.Tensor:
        """The nearest values; the last bit may differ from what the file's reader computes."""
        base, step = self.base.to(weight.device), self.step.to(weight.device)
        return (base + step * self.steps_of(self.codes(weight))).to(weight.dtype)

    @functools.cached_property
    def _even(self) -> bool:
        """Whether a code is its number of steps."""
        return bool(self.levels.tolist() == list(range(len(self.levels))))


@dataclass(frozen=True)
class Grid(Steps):
    """Steps of blocks of a tensor type `kind` whose scales are held: `base` and `step` [rows,
    columns]."""

    kind: str
    held: NDArray[np.uint8]

    @classmethod
    def of(cls, blocks: NDArray[np.uint8], kind: str) -> Grid:
        """The grid of blocks (rows, bytes of a row) of a type whose codes are known."""
        import torch

        base, step = (torch.from_numpy(values) for values in grid(blocks, kind))
        return cls(base, step, torch.from_numpy(levels(kind)), kind, blocks)

    def blocks(self, weight: torch.Tensor) -> NDArray[np.uint8]:
        """The blocks of the nearest values."""
        import torch

        return with_codes(self.held, self.kind, self.codes(weight).to("cpu", torch.uint8).numpy())
