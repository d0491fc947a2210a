"""Recovery without training: what is behind a cut is solved anew so that the layer still gives what
it gave.

Two streams go through the network side by side, the original's and the cut network's. In every
kept layer the output of attention and of the FFN are least-squares fits, from the cut stream's own
inputs, to what the original adds to its stream; so errors of the layers before are made up for,
and what a dropped layer did is taken over as far as it can be. The fit is drawn towards the cut
weights (ridge). Norms over a hidden width that was cut are scaled by what that does to the root
mean square that they divide by. Layer-wise reconstruction: He et al. 2017 (arXiv:1707.06168); on
the compressed stream's own inputs: Frantar et al. 2022 (arXiv:2208.11580).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.calibration import Batch
from toolchain.compress.prune.cut import Cut
from toolchain.compress.prune.layout import Layout, prefix_of
from toolchain.compress.prune.paged import LayerInputs, PagedNetwork, open_paged, run_layer
from toolchain.compress.prune.targets import RmsRatio, Targets
from toolchain.compress.prune.tensors import CutTensors

RIDGE = 0.05  # of the mean of the inputs' second moments


# As a decorator: a generator that waits inside `with` would switch gradients off for its caller.
@torch.no_grad()  # type: ignore[untyped-decorator]
def recover(
    info: CheckpointInfo,
    layout: Layout,
    cut: Cut,
    tensors: CutTensors,
    config: Mapping[str, Any],
    batches: Sequence[Batch],
) -> Iterator[tuple[int | None, dict[str, torch.Tensor]]]:
    """For each kept layer, by its new number, the parameters that change; then (None) those outside
    the layers."""
    original = open_paged(info, layout)
    prefix = prefix_of(layout, info)
    small = PagedNetwork(info.path, config, layout, prefix, tensors.names, tensors.read)
    streams, own_streams = original.layer_inputs(batches), small.layer_inputs(batches)
    new = {number: index for index, number in enumerate(cut.layers)}
    for number in range(cut.original.layers):
        targets = Targets(original, number, layout, streams, batches, cut)
        if number not in new:
            continue
        layer = new[number]
        with small.loaded(layer) as module:
            fitted = _Fitting(module, layer, own_streams, batches, cut, targets, layout)
            changed = fitted.rescale_norms()
            for name in (layout.attention_out, layout.ffn_out):
                changed |= {f"{name}.{k}": value for k, value in fitted.fit(name).items()}
            fitted.advance()
        yield layer, {f"{prefix}{layout.layer}.{layer}.{k}": v for k, v in changed.items()}
    yield None, _final_norm(layout, prefix, cut, tensors, streams, batches)


def _final_norm(
    layout: Layout,
    prefix: str,
    cut: Cut,
    tensors: CutTensors,
    streams: LayerInputs,
    batches: Sequence[Batch],
) -> dict[str, torch.Tensor]:
    if layout.final_norm is None or cut.shape.hidden == cut.original.hidden:
        return {}
    rms = RmsRatio(cut)
    for batch, hidden in zip(batches, streams.hidden, strict=True):
        rms.add(hidden[batch.valid])
    name = f"{prefix}{layout.final_norm}.weight"
    return {name: rms.rescaled(tensors.read(name), layout.norm_offset)}


class _Fitting:
    """One kept layer of the cut network, fitted output by output."""

    def __init__(
        self,
        module: Any,
        layer: int,
        streams: LayerInputs,
        batches: Sequence[Batch],
        cut: Cut,
        targets: Targets,
        layout: Layout,
    ) -> None:
        self._layout = layout
        self._module, self._layer, self._streams = module, layer, streams
        self._batches, self._cut, self._targets = batches, cut, targets

    def rescale_norms(self) -> dict[str, torch.Tensor]:
        """Weights of the norms over the hidden width, so that what they give keeps its scale."""
        found = {}
        for name, ratio in self._targets.norms.items():
            norm = self._module.get_submodule(name)
            norm.weight = _fixed(ratio.rescaled(norm.weight.data, self._layout.norm_offset))
            found[f"{name}.weight"] = norm.weight.data
        return found

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
        sums: list[torch.Tensor] = []

        def hook(_module: Any, args: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
            kept.extend((args[0], output))

        handles = [self._module.get_submodule(name).register_forward_hook(hook)]
        if name in self._layout.sums:
            norm = self._module.get_submodule(self._layout.sums[name])
            handles.append(norm.register_forward_pre_hook(lambda _, args: sums.append(args[0])))
        hidden = self._streams.hidden[index]
        after = run_layer(self._module, hidden, self._streams.keywords[index][self._layer])
        for handle in handles:
            handle.remove()
        inputs, outputs = kept
        if sums:
            return inputs, outputs, sums[0] - outputs
        added = self._targets.scale * outputs
        return inputs, outputs, hidden if name == self._layout.attention_out else after - added

    def _wanted(self, name: str, index: int, stream: torch.Tensor) -> torch.Tensor:
        kept = self._cut.hidden
        if self._targets.direct:
            return (self._targets.through[name][index][..., kept] - stream) / self._targets.scale
        return self._targets.added[name][index][..., kept]


def _fixed(value: torch.Tensor) -> torch.nn.Parameter:
    return torch.nn.Parameter(value.float(), requires_grad=False)
