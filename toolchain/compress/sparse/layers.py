"""One pass over a network: layer by layer its linear modules get their zeros.

    for layer, changed in pruned_layers(info, layout, batches, settings, target): ...

One layer is in memory at a time. What a layer sees went through the layers before with their zeros
in place, as in SparseGPT and Wanda; all modules of a layer are measured on the layer as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.calibration import Batch
from toolchain.compress.prune.layout import Layout
from toolchain.compress.prune.paged import open_paged, reader, run_layer
from toolchain.compress.sparse.linear import linear_weights
from toolchain.compress.sparse.methods import magnitude, sparsegpt, wanda
from toolchain.compress.sparse.moments import InputMoments, require_numbers
from toolchain.compress.sparse.schedule import Target
from toolchain.compress.sparse.settings import Sparsify
from toolchain.compress.sparse.threshold import cut_below, global_threshold

_WEIGHT = ".weight"
Changed = Iterator[tuple[int, dict[str, torch.Tensor]]]


# As a decorator: a generator that waits inside `with` would switch gradients off for its caller.
@torch.no_grad()  # type: ignore[untyped-decorator]
def pruned_layers(
    info: CheckpointInfo,
    layout: Layout,
    batches: Sequence[Batch],
    settings: Sparsify,
    target: Target,
) -> Changed:
    """For each layer, in order, its changed weights. Raises `UserError` when weights or activations
    are not numbers."""
    by_layer: dict[int, list[str]] = {}
    own = linear_weights(info, layout)
    for name, place in own.items():
        assert place.layer is not None
        by_layer.setdefault(place.layer, []).append(name)
    if settings.method == "magnitude":
        yield from _by_magnitude(info, by_layer, settings, target)
        return
    network = open_paged(info, layout)
    inputs = network.layer_inputs(batches)
    for layer, names in by_layer.items():
        with network.loaded(layer) as module:
            parts = {n: own[n].rest.removesuffix(_WEIGHT) for n in names}
            seen = InputMoments(parts.values(), full=settings.method == "sparsegpt")
            seen.watch(module, batches, inputs.hidden, [k[layer] for k in inputs.keywords])
            changed = {}
            for name, part in parts.items():
                linear = module.get_submodule(part)
                require_numbers(name, linear.weight, seen.of(part))
                new = _new_weight(linear.weight, seen.of(part), settings, target)
                linear.weight = torch.nn.Parameter(new, requires_grad=False)
                changed[name] = new
            for index, hidden in enumerate(inputs.hidden):
                inputs.hidden[index] = run_layer(module, hidden, inputs.keywords[index][layer])
        yield layer, changed


def _new_weight(
    weight: torch.Tensor, seen: torch.Tensor, settings: Sparsify, target: Target
) -> torch.Tensor:
    if settings.method == "wanda":
        return wanda(weight, seen, target)
    return sparsegpt(weight, seen, target, settings.block_columns, settings.damping)


def _by_magnitude(
    info: CheckpointInfo, by_layer: dict[int, list[str]], settings: Sparsify, target: Target
) -> Changed:
    """Needs no text, and no network."""
    read = reader(info)

    def checked(name: str) -> torch.Tensor:
        weight = read(name)
        require_numbers(name, weight)
        return weight

    if settings.scope == "layer":
        for layer, names in by_layer.items():
            yield layer, {name: magnitude(checked(name), target) for name in names}
        return
    everything = [name for names in by_layer.values() for name in names]
    limit = global_threshold(checked, everything, target.share)
    for layer, names in by_layer.items():
        yield layer, {name: cut_below(read(name), limit) for name in names}
