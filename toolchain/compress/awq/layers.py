"""One pass over a network: layer by layer scales are found and moved.

    for layer, changed in scaled_layers(info, layout, batches, types, settings, told): ...

One layer is in memory at a time. Scales do not change what the network computes, so each place is
searched by itself, on what the network as it was is fed with.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch

from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.awq.folds import Fold, folds_of
from toolchain.compress.awq.search import Scales, best_scales
from toolchain.compress.awq.settings import Awq
from toolchain.compress.prune.calibration import Batch
from toolchain.compress.prune.layout import Layout
from toolchain.compress.prune.paged import open_paged, run_layer
from toolchain.compress.prune.shape import places, read_shape
from toolchain.compress.sparse.moments import InputMoments, require_numbers

_WEIGHT = ".weight"


# As a decorator: a generator that waits inside `with` would switch gradients off for its caller.
@torch.no_grad()  # type: ignore[untyped-decorator]
def scaled_layers(
    info: CheckpointInfo,
    layout: Layout,
    batches: Sequence[Batch],
    types: Mapping[str, str],
    settings: Awq,
    told: list[Scales],
) -> Iterator[tuple[int, dict[str, torch.Tensor]]]:
    """For each layer, in order, its tensors that change; what was found goes into `told`. `types`
    are the weights' tensor types in the file; a place is left alone where one of its readers has
    none. Raises `UserError` when weights or activations are not numbers."""
    shape = read_shape(info, layout)
    names: dict[int, dict[str, str]] = {}
    for name, place in places(info, layout).items():
        if place.layer is not None:
            names.setdefault(place.layer, {})[place.rest] = name
    network = open_paged(info, layout)
    inputs = network.layer_inputs(batches)
    for number in range(network.layers):
        own, keywords = names[number], [one[number] for one in inputs.keywords]
        kinds = {rest: types[name] for rest, name in own.items() if name in types}
        folds = [
            fold
            for fold in folds_of(layout, shape, own)
            if all(reader + _WEIGHT in kinds for reader in fold.readers)
        ]
        with network.loaded(number) as module:
            seen = InputMoments(tuple(fold.readers[0] for fold in folds), full=True)
            seen.watch(module, batches, inputs.hidden, keywords)
            weights = {rest: _parameter(module, rest) for rest in own}
            changed = _moved(folds, weights, kinds, seen, settings, own, told)
            for index, called in enumerate(keywords):
                inputs.hidden[index] = run_layer(module, inputs.hidden[index], called)
        yield number, {own[rest]: value for rest, value in changed.items()}


def _moved(
    folds: Sequence[Fold],
    weights: Mapping[str, torch.Tensor],
    kinds: Mapping[str, str],
    seen: InputMoments,
    settings: Awq,
    names: Mapping[str, str],
    told: list[Scales],
) -> dict[str, torch.Tensor]:
    """The layer's tensors with the scales moved."""
    changed = dict(weights)
    for fold in folds:
        readers = [reader + _WEIGHT for reader in fold.readers]
        moments = seen.of(fold.readers[0])
        for reader in readers:
            require_numbers(names[reader], weights[reader], moments)
        found = best_scales(
            [_spread(weights[reader], settings.rows) for reader in readers],
            [kinds[reader] for reader in readers],
            moments,
            fold.channels,
            settings.steps,
        )
        fold.apply(changed, found.values)
        told.append(found)
    return {rest: value for rest, value in changed.items() if value is not weights[rest]}


def _parameter(module: Any, rest: str) -> torch.Tensor:
    value: torch.Tensor = module.get_parameter(rest).detach()
    return value


def _spread(weight: torch.Tensor, rows: int) -> torch.Tensor:
    """At most so many rows, evenly spread."""
    return weight[:: -(-len(weight) // rows)]
