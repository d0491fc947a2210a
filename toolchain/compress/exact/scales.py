"""Block scales that are trained beside the weights.

    scales = LearnedScales(network, types)           # begin as llama.cpp's search finds them
    values = scales.values(name, weight)             # forward and backward with these …
    scales.learn(name, weight, values, weight.grad)  # … and what they say of the scales
    scales.save(checkpoint)
    grids = learned_grids(checkpoint, types)         # at the end: blocks that have these scales

A scale is its start times e to a trained power, rounded to float16 as the file holds it. Its
gradient is that of learned step sizes (Esser et al. 2019, https://arxiv.org/abs/1902.08153): a
weight within the block's range pulls by its error of rounding, one beyond it by its value.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtimes.ggml_blocks import block_columns, quantize_rows, row_bytes
from runtimes.ggml_codes import SCALED, levels, scales_of, with_scales
from toolchain.compress.exact.grid import Grid, Steps

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

FILE = "scales.safetensors"
_POWER, _SCALE = "power.", "scale."
# A power changes by the learning rate a step, about: as a share of itself a scale may change faster
# than a weight, which is one of many.
PACE = 3.0


class LearnedScales:
    """Scales [rows, blocks of a row] of the network's weights whose type has one for each block.
    `begun` are blocks of some of them to begin with."""

    def __init__(
        self,
        network: Any,
        types: Mapping[str, str],
        begun: Mapping[str, NDArray[np.uint8]] | None = None,
    ) -> None:
        import torch

        self._kinds = {name: kind for name, kind in types.items() if kind in SCALED}
        self._starts: dict[str, torch.Tensor] = {}
        self.powers: dict[str, torch.nn.Parameter] = {}
        for name, kind in self._kinds.items():
            weight = network.get_parameter(name).detach()
            blocks = begun[name] if begun and name in begun else _searched(weight, kind)
            start = torch.from_numpy(scales_of(blocks, kind)).to(weight.device)
            self._starts[name] = start
            self.powers[name] = torch.nn.Parameter(torch.zeros_like(start))

    def __contains__(self, name: object) -> bool:
        return name in self.powers

    def values(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """The weight as blocks of the present scales would hold it."""
        return self._steps(name).values(_blocked(weight, self.powers[name])).view_as(weight)

    def learn(
        self, name: str, weight: torch.Tensor, values: torch.Tensor, gradient: torch.Tensor
    ) -> None:
        """Set the gradient of the powers, from that of the `values` and the float weight that they
        were rounded from."""
        import torch

        power = self.powers[name]
        own, kept, pull = (_blocked(each, power).float() for each in (weight, values, gradient))
        steps = self._steps(name)
        ends = (steps.base + steps.step * float(steps.levels[end]) for end in (0, -1))
        low, high = torch.stack(tuple(ends)).aminmax(dim=0)
        inside = (own >= low) & (own <= high)
        change = torch.where(inside, kept - own, kept)
        power.grad = (pull * change).sum(-1)

    def save(self, folder: Path) -> None:
        """Write the scales into a checkpoint's folder."""
        from safetensors.torch import save_file

        powers = {_POWER + name: power.detach().cpu() for name, power in self.powers.items()}
        scales = {_SCALE + name: self._scale(name).cpu() for name in self.powers}
        save_file(powers | scales, folder / FILE)

    def load(self, folder: Path) -> None:
        """Take up the scales of a checkpoint."""
        from safetensors.torch import load_file

        saved = load_file(folder / FILE)
        for name, power in self.powers.items():
            power.data.copy_(saved[_POWER + name])

    def _scale(self, name: str) -> torch.Tensor:
        return (self._starts[name] * self.powers[name].detach().exp()).half().float()

    def _steps(self, name: str) -> Steps:
        import torch

        scale = self._scale(name).unsqueeze(-1)
        numbers = torch.from_numpy(levels(self._kinds[name]))
        return Steps(scale * _offset(self._kinds[name]), scale, numbers)


def learned_grids(checkpoint: Path, types: Mapping[str, str]) -> dict[str, Grid]:
    """The grids of the scales that a checkpoint has learned; none where it has not."""
    import numpy as np
    from safetensors.numpy import load_file

    if not (checkpoint / FILE).is_file():
        return {}
    found = {}
    for key, scales in load_file(checkpoint / FILE).items():
        if key.startswith(_SCALE):
            name = key.removeprefix(_SCALE)
            kind = types[name]
            columns = scales.shape[1] * block_columns(kind)
            empty = np.zeros((len(scales), row_bytes(kind, columns)), np.uint8)
            found[name] = Grid.of(with_scales(empty, kind, scales), kind)
    return found


def _searched(weight: torch.Tensor, kind: str) -> NDArray[np.uint8]:
    """Blocks whose scales llama.cpp searched for, as it does with an importance matrix in which all
    inputs count alike; without one Q4_0 takes the largest weight's."""
    import numpy as np

    values = weight.float().cpu().contiguous().numpy()
    return quantize_rows(values, kind, np.ones(values.shape[1], np.float32))


def _blocked(weight: torch.Tensor, power: torch.Tensor) -> torch.Tensor:
    """As [rows, blocks, weights of a block]."""
    return weight.detach().view(*power.shape, -1)


@functools.cache
def _offset(kind: str) -> float:
    """The number that the lowest code stands for, in scales."""
    import numpy as np

    empty = np.zeros((1, row_bytes(kind, block_columns(kind))), np.uint8)
    grid = Grid.of(with_scales(empty, kind, np.ones((1, 1), np.float32)), kind)
    return float(grid.base[0, 0])
