"""Recovery without training: what is behind a cut is solved anew so that the layer still gives what
it gave.

Two streams go through the network side by side, the original's and the cut network's. In every
kept layer the output of attention and of the FFN are least-squares fits, from the cut stream's own
inputs, to what the original adds to its stream; so errors of the layers before are made up for,
and what a dropped layer did is taken over as far as it can be. The fit is drawn towards the cut
weights (ridge). Layer-wise reconstruction: He et al. 2017 (arXiv:1707.06168); on the compressed
stream's own inputs: Frantar et al. 2022 (arXiv:2208.11580).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.calibration import Batch
from toolchain.compress.prune.cut import Cut
from toolchain.compress.prune.layout import Layout, prefix_of
from toolchain.compress.prune.paged import (
    LayerInputs,
    PagedNetwork,
    open_paged,
    run_layer,
)
from toolchain.compress.prune.tensors import CutTensors

RIDGE = 0.05  # of the mean of the inputs' second moments
_SAME = 1e-3


def recover(
    info: CheckpointInfo,
    layout: Layout,
    cut: Cut,
    tensors: CutTensors,
    config: Mapping[str, Any],
    batches: Sequence[Batch],
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """For each kept layer, by its new number, the parameters that change."""
    original = open_paged(info, layout)
    prefix = prefix_of(layout, info)
    small = PagedNetwork(info.path, config, layout, prefix, tensors.names, tensors.read)
    streams, own_streams = original.layer_inputs(batches), small.layer_inputs(batches)
    new = {number: index for index, number in enumerate(cut.layers)}
    with torch.no_grad():
        for number in range(cut.original.layers):
            targets = _Targets(original, number, layout, streams, batches)
            if number not in new:
                continue
            layer = new[number]
            with small.loaded(layer) as module:
                fitted = _Fitting(module, layer, own_streams, batches, cut, targets, layout)
                changed = {
                    f"{name}.{leaf}": value
                    for name in (layout.attention_out, layout.ffn_out)
                    for leaf, value in fitted.fit(name).items()
                }
                fitted.advance()
            yield layer, {f"{prefix}{layout.layer}.{layer}.{k}": v for k, v in changed.items()}


class _Targets:
    """Runs an original layer, moves the stream on, and keeps what its two outputs should be."""

    def __init__(
        self,
        network: PagedNetwork,
        number: int,
        layout: Layout,
        streams: LayerInputs,
        batches: Sequence[Batch],
    ) -> None:
        self.before = list(streams.hidden)
        self.added: dict[str, list[torch.Tensor]] = {}
        with network.loaded(number) as module:
            hooks = [
                module.get_submodule(name).register_forward_hook(self._keep(name))
                for name in (layout.attention_out, layout.ffn_out)
            ]
            for index in range(len(batches)):
                streams.hidden[index] = run_layer(
                    module, streams.hidden[index], streams.keywords[index][number]
                )
            for hook in hooks:
                hook.remove()
        self.after = list(streams.hidden)
        attention, ffn = (self.added[name] for name in (layout.attention_out, layout.ffn_out))
        whole = self.before[0] + attention[0] + ffn[0]
        # Where the outputs are scaled or normalized first, what is missing from the stream cannot
        # simply be added to them.
        self.direct = bool(torch.allclose(whole, self.after[0], rtol=_SAME, atol=_SAME))
        self.through = {
            layout.attention_out: [b + a for b, a in zip(self.before, attention, strict=True)],
            layout.ffn_out: self.after,
        }

    def _keep(self, name: str) -> Any:
        def hook(_module: Any, _args: Any, output: torch.Tensor) -> None:
            self.added.setdefault(name, []).append(output)

        return hook


class _Fitting:
    """One kept layer of the cut network, fitted output by output."""

    def __init__(
        self,
        module: Any,
        layer: int,
        streams: LayerInputs,
        batches: Sequence[Batch],
        cut: Cut,
        targets: _Targets,
        layout: Layout,
    ) -> None:
        self._layout = layout
        self._module, self._layer, self._streams = module, layer, streams
        self._batches, self._cut, self._targets = batches, cut, targets

    def fit(self, name: str) -> dict[str, torch.Tensor]:
        """Weight (and bias) of the linear module `name`, set in the module too."""
        linear = self._module.get_submodule(name)
        weight, bias = linear.weight.double(), linear.bias
        moments = torch.zeros(weight.shape[1], weight.shape[1], dtype=torch.float64)
        missing = torch.zeros(weight.shape, dtype=torch.float64)
        sums = [torch.zeros(size, dtype=torch.float64) for size in weight.shape]
        tokens = 0
        for index, batch in enumerate(self._batches):
            inputs, outputs, stream = self._run(index, name)
            wanted = self._wanted(name, index, stream)[batch.valid]
            x, gap = inputs[batch.valid].double(), (wanted - outputs[batch.valid]).double()
            moments += x.T @ x
            missing += gap.T @ x
            sums = [sums[0] + gap.sum(0), sums[1] + x.sum(0)]
            tokens += len(x)
        if bias is not None:  # what is left on the mean is the bias's
            gap_mean, x_mean = sums[0] / tokens, sums[1] / tokens
            moments -= tokens * torch.outer(x_mean, x_mean)
            missing -= tokens * torch.outer(gap_mean, x_mean)
        ridge = RIDGE * moments.diagonal().mean()
        moments.diagonal().add_(ridge.clamp_min(1e-12))
        step = torch.linalg.solve(moments, missing.T).T
        linear.weight = _fixed(weight + step)
        if bias is None:
            return {"weight": linear.weight.data}
        linear.bias = _fixed(bias.double() + gap_mean - step @ x_mean)
        return {"weight": linear.weight.data, "bias": linear.bias.data}

    def advance(self) -> None:
        """Move the cut stream behind this layer."""
        for index, hidden in enumerate(self._streams.hidden):
            keywords = self._streams.keywords[index][self._layer]
            self._streams.hidden[index] = run_layer(self._module, hidden, keywords)

    def _run(self, index: int, name: str) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Inputs and outputs of a linear module, and the stream that its output is added to."""
        kept: list[torch.Tensor] = []

        def hook(_module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            kept.extend((args[0], output))

        handle = self._module.get_submodule(name).register_forward_hook(hook)
        hidden = self._streams.hidden[index]
        after = run_layer(self._module, hidden, self._streams.keywords[index][self._layer])
        handle.remove()
        inputs, outputs = kept
        return inputs, outputs, hidden if name == self._layout.attention_out else after - outputs

    def _wanted(self, name: str, index: int, stream: torch.Tensor) -> torch.Tensor:
        kept = self._cut.hidden
        if self._targets.direct:
            return self._targets.through[name][index][..., kept] - stream
        return self._targets.added[name][index][..., kept]


def _fixed(value: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(value.float(), requires_grad=False)
