"""What a layer of the original does, as the cut network's layer should do it (`recover.py`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from toolchain.compress.prune.calibration import Batch
from toolchain.compress.prune.cut import Cut
from toolchain.compress.prune.layout import Layout
from toolchain.compress.prune.paged import LayerInputs, PagedNetwork, run_layer

_SAME = 1e-3


class RmsRatio:
    """Root mean square of the kept entries against that of all, averaged over tokens: the
    least-squares factor by which a norm over the kept entries comes nearest to that over all."""

    def __init__(self, cut: Cut) -> None:
        self._kept, self._sum, self._tokens = cut.hidden, 0.0, 0

    def add(self, inputs: torch.Tensor) -> None:
        """Inputs [tokens, hidden] of the original's norm."""
        kept, whole = (x.square().mean(-1).sqrt() for x in (inputs[:, self._kept], inputs))
        self._sum += float((kept / whole.clamp_min(1e-12)).sum())
        self._tokens += len(inputs)

    def rescaled(self, weight: torch.Tensor, offset: float) -> torch.Tensor:
        """The norm's weight for the kept entries."""
        return (weight + offset) * (self._sum / max(1, self._tokens)) - offset


class Targets:
    """Runs an original layer, moves the stream on, and keeps what its two outputs should be.

    `added` are the outputs of the two linear modules. Where they are added to the stream, times
    `scale`, `direct` holds and `through` is the stream behind each: then the cut network can make
    up for what is missing from its own stream. `norms` has the ratio for each norm to rescale.
    """

    def __init__(
        self,
        network: PagedNetwork,
        number: int,
        layout: Layout,
        streams: LayerInputs,
        batches: Sequence[Batch],
        cut: Cut,
    ) -> None:
        self.added: dict[str, list[torch.Tensor]] = {}
        self._sums: dict[str, list[torch.Tensor]] = {}
        self.norms: dict[str, RmsRatio] = {}
        self._valid = batches[0].valid
        before = list(streams.hidden)
        with network.loaded(number) as module:
            hooks = self._hooks(module, layout, cut)
            for index, batch in enumerate(batches):
                self._valid = batch.valid
                keywords = streams.keywords[index][number]
                streams.hidden[index] = run_layer(module, streams.hidden[index], keywords)
            for hook in hooks:
                hook.remove()
        self._settle(layout, before, list(streams.hidden), batches[0].valid)

    def _hooks(self, module: Any, layout: Layout, cut: Cut) -> list[Any]:
        hooks = []
        for name in (layout.attention_out, layout.ffn_out):
            kept = self.added.setdefault(name, [])
            hooks.append(module.get_submodule(name).register_forward_hook(_keep_output(kept)))
        for name, norm in layout.sums.items():
            seen = self._sums.setdefault(name, [])
            hooks.append(module.get_submodule(norm).register_forward_pre_hook(_keep_input(seen)))
        if cut.shape.hidden == cut.original.hidden:
            return hooks
        there = dict(module.named_modules())
        for name in (name for name in layout.norms if name in there):
            self.norms[name] = RmsRatio(cut)
            hooks.append(there[name].register_forward_pre_hook(self._measure(self.norms[name])))
        return hooks

    def _measure(self, ratio: RmsRatio) -> Any:
        return lambda _module, args: ratio.add(args[0][self._valid])

    def _settle(
        self,
        layout: Layout,
        before: list[torch.Tensor],
        after: list[torch.Tensor],
        valid: torch.Tensor,
    ) -> None:
        attention, ffn = (self.added[name] for name in (layout.attention_out, layout.ffn_out))
        self.scale, self.direct, self.through = 1.0, True, self._sums
        if self._sums:
            return
        change, parts = (after[0] - before[0])[valid], (attention[0] + ffn[0])[valid]
        self.scale = float((change * parts).sum() / parts.square().sum().clamp_min(1e-30)) or 1.0
        # Where the outputs are normalized first, what is missing from the stream cannot simply be
        # added to them.
        self.direct = bool((change - self.scale * parts).norm() <= _SAME * change.norm())
        self.scale = self.scale if self.direct else 1.0
        self.through = {
            layout.attention_out: [
                b + self.scale * a for b, a in zip(before, attention, strict=True)
            ],
            layout.ffn_out: after,
        }


def _keep_output(kept: list[torch.Tensor]) -> Any:
    return lambda _module, _args, output: kept.append(output)


def _keep_input(kept: list[torch.Tensor]) -> Any:
    return lambda _module, args: kept.append(args[0])
