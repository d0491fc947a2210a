"""A network that computes with the weights of the file while its own float weights are trained.

    exact = ExactWeights(network, types)
    with exact.in_place(step):    # the dequantized blocks are the weights
        loss = network(**batch).loss
        loss.backward()           # and the gradient goes to the float weights: straight through
    optimizer.step()              # on the float weights

Source: Bengio et al. 2013 (https://arxiv.org/abs/1308.3432) for the straight-through estimator. The
values change places instead of passing through a function of autograd, so that tied weights,
gradient checkpointing and several processes need no care.
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from runtimes.ggml_blocks import dequantize_rows, quantize_rows
from runtimes.ggml_codes import CODED
from toolchain.compress.exact.grid import Grid
from toolchain.compress.exact.scales import LearnedScales
from toolchain.compress.exact.settings import ExactPlan
from toolchain.compress.exact.sidecar import Exact

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

# Types whose search for a block's scale takes 6 to 60 times as long as that of Q4_0 or Q8_0.
_SLOW_MARKS = ("_K", "IQ")
_SLOW_EVERY = 4


class ExactWeights:
    """Float weights and, beside them, their values in the file. `types` maps names of the network's
    parameters to tensor types; `every` is after how many steps the blocks of slow types are found
    anew (by default 4), the others' after each. Weights of `grids` keep these scales, those of
    `scales` have theirs learned."""

    def __init__(
        self,
        network: Any,
        types: Mapping[str, str],
        every: int | None = None,
        grids: Mapping[str, Grid] | None = None,
        scales: LearnedScales | None = None,
    ) -> None:
        parameters = dict(network.named_parameters())
        self._own = {name: (parameters[name], kind) for name, kind in types.items()}
        self._every = every or _SLOW_EVERY
        self._grids = grids or {}
        self.scales = scales
        self._values: dict[str, torch.Tensor] = {}
        self._found_at: dict[str, int] = {}

    @contextmanager
    def in_place(self, step: int | None = None) -> Iterator[None]:
        """The file's values are the network's weights meanwhile. `step` counts how often the float
        weights have changed; without it the blocks are those of the weights as they are now."""
        self._refresh(step)
        floats = {name: parameter.data for name, (parameter, _) in self._own.items()}
        try:
            for name, (parameter, _) in self._own.items():
                parameter.data = self._values[name]
            yield
        finally:
            for name, (parameter, _) in self._own.items():
                parameter.data = floats[name]

    def forget(self) -> None:
        """Find all blocks anew at the next use, as a run does that goes on from a checkpoint."""
        self._found_at.clear()

    def learn(self) -> None:
        """After `in_place` and a backward pass: tell the scales what the gradients say of them."""
        for name, (parameter, _) in self._own.items():
            if self.scales and name in self.scales and parameter.grad is not None:
                self.scales.learn(name, parameter.data, self._values[name], parameter.grad)

    def _refresh(self, step: int | None) -> None:
        if step is None:
            self.forget()
        for name, (parameter, kind) in self._own.items():
            before = self._found_at.get(name)
            every = self._every if _is_slow(kind) and not self._has_scales(name) else 1
            if before is None or step is None or step - before >= every:
                self._values[name] = self._as_in_file(name, parameter.data, kind)
                if step is not None:
                    self._found_at[name] = step

    def _has_scales(self, name: str) -> bool:
        """Whether rounding needs no search."""
        return name in self._grids or (self.scales is not None and name in self.scales)

    def _as_in_file(self, name: str, weight: torch.Tensor, kind: str) -> torch.Tensor:
        if self.scales and name in self.scales:
            return self.scales.values(name, weight)
        grid = self._grids.get(name)
        return grid.values(weight) if grid else rounded(weight, kind)


def held_grids(exact: Exact, learned: Container[str] = ()) -> dict[str, Grid]:
    """The grids of the blocks whose scales can be held; weights of other types are left out, and
    those whose scales are `learned`."""
    return {
        name: Grid.of(blocks, exact.plan.types[name])
        for name, blocks in exact.blocks.items()
        if exact.plan.types[name] in CODED and name not in learned
    }


def settle_blocks(network: Any, plan: ExactPlan, grids: Mapping[str, Grid] | None = None) -> Exact:
    """Turn the network's float weights into those of the file, for good; their blocks, with the
    scales of `grids` where there are such."""
    import torch

    blocks = {}
    parameters = dict(network.named_parameters())
    for name, kind in plan.types.items():
        weight = parameters[name]
        grid = (grids or {}).get(name)
        blocks[name] = grid.blocks(weight.data) if grid else quantize_rows(_rows(weight), kind)
        values = dequantize_rows(blocks[name], kind, weight.shape[1])
        weight.data = torch.from_numpy(values).to(weight.device)
    return Exact(plan, blocks)


def rounded(
    weight: torch.Tensor, kind: str, importance: NDArray[np.float32] | None = None
) -> torch.Tensor:
    """The weight as the file would hold it, in its own type of numbers and on its device."""
    import torch

    values = dequantize_rows(quantize_rows(_rows(weight), kind, importance), kind, weight.shape[1])
    return torch.from_numpy(values).to(device=weight.device, dtype=weight.dtype)


def _is_slow(kind: str) -> bool:
    return any(mark in kind for mark in _SLOW_MARKS)


def _rows(weight: torch.Tensor) -> NDArray[np.float32]:
    values: NDArray[np.float32] = weight.detach().float().cpu().contiguous().numpy()
    return values
