"""Where scales can move without changing what the network computes.

    for fold in folds_of(layout, shape, names): fold.apply(weights, scales)

A norm's output, the values of attention and the upper half of a gated FFN reach the modules that
read them channel by channel: dividing a channel there and multiplying the readers' column is the
same function. An architecture's are in its layout (`folds`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from toolchain.compress.awq.search import Channels
from toolchain.compress.prune.layout import Layout, parts
from toolchain.compress.prune.shape import Shape

_WEIGHT, _BIAS = ".weight", ".bias"
Weights = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Fold:
    """A module `source` of a layer whose last `channels.count` outputs `readers` alone read.
    `offset` is what a norm adds to its weight."""

    source: str
    readers: tuple[str, ...]
    channels: Channels
    offset: float

    def apply(self, weights: Weights, scales: torch.Tensor) -> None:
        """Divide the source by `scales` [channels] and multiply the readers' columns; `weights` are
        the layer's tensors by their names within it."""
        for name in (self.source + _WEIGHT, self.source + _BIAS):
            if name in weights:
                weights[name] = self._divided(weights[name], scales)
        for reader in self.readers:
            name = reader + _WEIGHT
            weights[name] = weights[name] * self.channels.columns(scales)

    def _divided(self, value: torch.Tensor, scales: torch.Tensor) -> torch.Tensor:
        kept, own = value[: -len(scales)], value[-len(scales) :]
        by = scales if own.dim() == 1 else scales[:, None]
        return torch.cat([kept, (own + self.offset) / by - self.offset])


def folds_of(layout: Layout, shape: Shape, there: Mapping[str, object]) -> list[Fold]:
    """A layer's folds; `there` holds the tensors that it has, by their names within it."""
    found = []
    for source, readers in layout.folds.items():
        if source + _WEIGHT not in there:
            continue
        read = tuple(name for name in readers if name + _WEIGHT in there)
        norm = source in layout.norms
        found.append(Fold(source, read, _channels(layout, shape, source, read[0]),
                          layout.norm_offset if norm else 0.0))  # fmt: skip
    return found


def _channels(layout: Layout, shape: Shape, source: str, reader: str) -> Channels:
    axis = parts(layout.layer_tensors[source + _WEIGHT][0])[-1]
    columns = parts(layout.layer_tensors[reader + _WEIGHT][1])[-1]
    if (axis, columns) == ("groups", "heads"):
        return Channels(shape.width(axis), shape.heads_per_group, shape.head_dim)
    return Channels(shape.width(axis))
