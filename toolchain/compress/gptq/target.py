"""What a module is to answer: as before anything was rounded, from inputs that were.

    seen = TwoInputs("mlp.up_proj")
    seen.watch(module, original, batches, hidden, hidden_before, keywords)
    weight = seen.target(linear.weight, damping=0.01)

With x the input as it is now and x₀ as it was, the weights W' that bring W'x nearest to W x₀ are
W + W·E[(x₀ - x)·xᵀ]·E[x·xᵀ]⁻¹: least squares. Rounding W' instead of W mends what was lost before
(Li et al. 2025, GPTAQ, arXiv:2504.02692).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from toolchain.compress.prune.calibration import Batch
from toolchain.compress.prune.paged import run_layer
from toolchain.compress.sparse.moments import damped


class TwoInputs:
    """Means over tokens of what a module is fed with, both [inputs, inputs]: `moments` of x·xᵀ,
    `drift` of (x₀ - x)·xᵀ. `name` is the module's within its layer."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._fed: dict[str, torch.Tensor] = {}

    def watch(
        self,
        module: Any,
        original: Any,
        batches: Sequence[Batch],
        hidden: Sequence[torch.Tensor],
        hidden_before: Sequence[torch.Tensor],
        keywords: Sequence[dict[str, Any]],
    ) -> None:
        """Run the layer as it is and as it was on all batches."""
        hooks = [
            layer.get_submodule(self._name).register_forward_pre_hook(self._note(key))
            for key, layer in (("now", module), ("before", original))
        ]
        moments = drift = torch.zeros(())
        for index, batch in enumerate(batches):
            run_layer(module, hidden[index], keywords[index])
            run_layer(original, hidden_before[index], keywords[index])
            now, before = (self._fed.pop(key)[batch.valid] for key in ("now", "before"))
            moments = moments + now.T @ now
            drift = drift + (before - now).T @ now
        for hook in hooks:
            hook.remove()
        tokens = sum(batch.tokens for batch in batches)
        self.moments, self.drift = moments / tokens, drift / tokens

    def target(self, weight: torch.Tensor, damping: float) -> torch.Tensor:
        """The weights to round."""
        moved = weight.double() @ self.drift.double()
        change = torch.linalg.solve(damped(self.moments, damping), moved.T).T
        return weight + change.float()

    def _note(self, key: str) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        def hook(_module: Any, args: tuple[torch.Tensor, ...]) -> None:
            self._fed[key] = args[0]

        return hook
