"""One pass over a network: layer by layer its linear modules are rounded into their blocks.

    for layer, blocks in rounded_layers(info, layout, batches, types, damping): ...

One layer is in memory at a time, rounded and as it was. What a module sees went through all modules
before it as they were rounded, those of its own layer too; what it is to answer is what it answered
in the network as it was (Li et al. 2025, GPTAQ, arXiv:2504.02692).
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from runtimes.ggml_blocks import dequantize_rows
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.gptq.rounding import gptq
from toolchain.compress.gptq.target import TwoInputs
from toolchain.compress.prune.calibration import Batch
from toolchain.compress.prune.layout import Layout
from toolchain.compress.prune.paged import open_paged, run_layer
from toolchain.compress.sparse.linear import linear_weights
from toolchain.compress.sparse.moments import InputMoments, require_numbers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WEIGHT = ".weight"


@dataclass(frozen=True)
class _Layer:
    """A layer that is being rounded, and as it was, with what enters each; `names` are its weights'
    by its modules' names."""

    module: Any
    original: Any
    names: Mapping[str, str]
    batches: Sequence[Batch]
    hidden: list[torch.Tensor]
    hidden_before: list[torch.Tensor]
    keywords: Sequence[dict[str, Any]]


# As a decorator: a generator that waits inside `with` would switch gradients off for its caller.
@torch.no_grad()  # type: ignore[untyped-decorator]
def rounded_layers(
    info: CheckpointInfo,
    layout: Layout,
    batches: Sequence[Batch],
    types: Mapping[str, str],
    damping: float,
) -> Iterator[tuple[int, dict[str, NDArray[np.uint8]]]]:
    """For each layer, in order, the blocks (rows, bytes of a row) of its linear weights that
    `types` names. Raises `UserError` when weights or activations are not numbers."""
    own = linear_weights(info, layout)
    network = open_paged(info, layout)
    inputs = network.layer_inputs(batches)
    before = list(inputs.hidden)
    for number in range(network.layers):
        names = {
            place.rest.removesuffix(_WEIGHT): name
            for name, place in own.items()
            if place.layer == number and name in types
        }
        keywords = [one[number] for one in inputs.keywords]
        with network.loaded(number) as module:
            original = copy.deepcopy(module)
            layer = _Layer(module, original, names, batches, inputs.hidden, before, keywords)
            blocks = _round_layer(layer, types, damping)
            for index, called in enumerate(keywords):
                inputs.hidden[index] = run_layer(module, inputs.hidden[index], called)
                before[index] = run_layer(original, before[index], called)
        yield number, blocks


def _round_layer(
    layer: _Layer, types: Mapping[str, str], damping: float
) -> dict[str, NDArray[np.uint8]]:
    """Round the layer in place, the modules that run first before the others are measured."""
    order = InputMoments(tuple(layer.names), full=False)
    order.watch(layer.module, layer.batches[:1], layer.hidden, layer.keywords)
    made = {}
    for parts in order.groups():
        seen = TwoInputs(parts[0])
        seen.watch(
            layer.module,
            layer.original,
            layer.batches,
            layer.hidden,
            layer.hidden_before,
            layer.keywords,
        )
        for part in parts:
            linear, name = layer.module.get_submodule(part), layer.names[part]
            require_numbers(name, linear.weight, seen.moments, seen.drift)
            made[name] = gptq(
                seen.target(linear.weight, damping), seen.moments, types[name], damping
            )
            values = dequantize_rows(made[name], types[name], linear.weight.shape[1])
            linear.weight = torch.nn.Parameter(torch.from_numpy(values), requires_grad=False)
    return made
