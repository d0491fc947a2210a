"""What linear modules are fed with on calibration text: second moments, and their inverse's root.

    seen = InputMoments(("mlp.up_proj", "mlp.gate_proj"), full=True)
    seen.watch(layer, batches, hidden, keywords)
    root = inverse_root(seen.of("mlp.up_proj"), damping=0.01)

The Hessian of a module's squared error is twice the second moments of its inputs (Frantar and
Alistarh 2023, arXiv:2301.00774).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from common.errors import UserError
from toolchain.compress.prune.calibration import Batch
from toolchain.compress.prune.paged import run_layer


@dataclass
class InputMoments:
    """What a layer's linear modules are fed with, as means over tokens: x·xᵀ [inputs, inputs] with
    `full`, else its diagonal. Modules fed with one tensor (q, k, v) share one."""

    names: Any
    full: bool
    valid: torch.Tensor | None = None
    tokens: int = 0
    _sums: dict[str, torch.Tensor] = field(default_factory=dict)
    _owner: dict[str, str] = field(default_factory=dict)
    _now: list[tuple[torch.Tensor, str]] = field(default_factory=list)

    def watch(
        self,
        module: Any,
        batches: Sequence[Batch],
        hidden: Sequence[torch.Tensor],
        keywords: Sequence[dict[str, Any]],
    ) -> None:
        """Run the layer on all batches."""
        hooks = [
            module.get_submodule(name).register_forward_pre_hook(self._hook(name))
            for name in self.names
        ]
        for index, batch in enumerate(batches):
            self.valid = batch.valid
            run_layer(module, hidden[index], keywords[index])
            self._now.clear()
            self.tokens += batch.tokens
        for hook in hooks:
            hook.remove()

    def of(self, name: str) -> torch.Tensor:
        """The mean for a module."""
        return self._sums[self._owner[name]] / self.tokens

    def groups(self) -> list[list[str]]:
        """The modules that are fed with one tensor, in the order in which they run."""
        found: dict[str, list[str]] = {}
        for name, owner in self._owner.items():
            found.setdefault(owner, []).append(name)
        return list(found.values())

    def _hook(self, name: str) -> Any:
        def hook(_module: Any, args: tuple[torch.Tensor, ...]) -> None:
            if name not in self._owner:
                same = (owner for fed, owner in self._now if fed is args[0])
                self._owner[name] = next(same, name)
            if self._owner[name] != name:
                return
            self._now.append((args[0], name))
            inputs = args[0][self.valid]
            own = inputs.T @ inputs if self.full else inputs.square().sum(0)
            self._sums[name] = self._sums[name] + own if name in self._sums else own

        return hook


def damped(moments: torch.Tensor, damping: float) -> torch.Tensor:
    """Moments that can be inverted, in float64: `damping` times the mean of the diagonal is added
    to it; an input that is always 0 takes no part."""
    found = moments.double()
    dead = found.diagonal() == 0
    found.diagonal()[dead] = 1
    found.diagonal().add_(damping * found.diagonal().mean())
    return found


def inverse_root(moments: torch.Tensor, damping: float) -> torch.Tensor:
    """Upper Cholesky factor of the inverse Hessian, [inputs, inputs]. Raises `UserError` when there
    is none."""
    hessian = damped(2 * moments, damping)
    try:
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
        root: torch.Tensor = torch.linalg.cholesky(inverse, upper=True)
    except torch.linalg.LinAlgError:
        raise UserError(
            "the calibration's second moments cannot be inverted",
            "raise damping (0.1), or give more calibration text",
        ) from None
    return root.float()


def require_numbers(name: str, *values: torch.Tensor) -> None:
    if not all(bool(torch.isfinite(value).all()) for value in values):
        raise UserError(
            f"{name} or what it is fed with is not a number everywhere",
            "the weights hold NaN or overflow: check the checkpoint",
        )
