"""One pass over a network: layer by layer its linear modules are rounded into their blocks.

    for layer, blocks in rounded_layers(info, layout, batches, types, damping): ...

One layer is in memory at a time. What a module sees went through all modules before it as they were
rounded, those of its own layer too.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from runtimes.ggml_blocks import dequantize_rows
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.gptq.rounding import gptq
from toolchain.compress.prune.calibration import Batch
from toolchain.compress.prune.layout import Layout
from toolchain.compress.prune.paged import LayerInputs, open_paged, run_layer
from toolchain.compress.sparse.layers import linear_weights
from toolchain.compress.sparse.moments import InputMoments, require_numbers

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_WEIGHT = ".weight"


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
    for layer in range(network.layers):
        names = {
            place.rest.removesuffix(_WEIGHT): name
            for name, place in own.items()
            if place.layer == layer and name in types
        }
        with network.loaded(layer) as module:
            blocks = _round_layer(module, layer, names, batches, inputs, types, damping)
            for index, hidden in enumerate(inputs.hidden):
                inputs.hidden[index] = run_layer(module, hidden, inputs.keywords[index][layer])
        yield layer, blocks


def _round_layer(
    module: Any,
    layer: int,
    names: Mapping[str, str],
    batches: Sequence[Batch],
    inputs: LayerInputs,
    types: Mapping[str, str],
    damping: float,
) -> dict[str, NDArray[np.uint8]]:
    """Round the layer in place, the modules that run first before the others are measured."""
    keywords = [one[layer] for one in inputs.keywords]
    order = InputMoments(tuple(names), full=False)
    order.watch(module, batches[:1], inputs.hidden, keywords)
    made = {}
    for parts in order.groups():
        seen = InputMoments(tuple(parts), full=True)
        seen.watch(module, batches, inputs.hidden, keywords)
        for part in parts:
            linear, name = module.get_submodule(part), names[part]
            require_numbers(name, linear.weight, seen.of(part))
            made[name] = gptq(linear.weight, seen.of(part), types[name], damping)
            values = dequantize_rows(made[name], types[name], linear.weight.shape[1])
            linear.weight = torch.nn.Parameter(torch.from_numpy(values), requires_grad=False)
    return made
