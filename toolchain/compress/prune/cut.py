"""What stays: the entries of every axis that are kept, and tensors with only those."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from common.errors import UserError
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.config import read_by_transformers
from toolchain.compress.prune.layout import Layout, Place, parts
from toolchain.compress.prune.scores import Scores
from toolchain.compress.prune.shape import Shape

Widths = Mapping[int, int]  # layer of the original → entries that it keeps


@dataclass(frozen=True)
class Cut:
    """The entries kept, in order. `layers` are numbers of the original's layers; `groups` and `ffn`
    have one entry for each layer of the original."""

    original: Shape
    shape: Shape
    layers: tuple[int, ...]
    groups: tuple[torch.Tensor, ...]
    ffn: tuple[torch.Tensor, ...]
    hidden: torch.Tensor

    def text(self) -> str:
        """For a reader; widths that differ between layers as the least and the most."""
        groups = [len(self.groups[layer]) for layer in self.layers]
        ffn = [len(self.ffn[layer]) for layer in self.layers]
        if len(set(groups)) == len(set(ffn)) == 1:
            return self.shape.text()
        return (
            f"{len(self.layers)} layers, {_range(groups)} groups of {self.shape.heads_per_group} "
            f"heads, FFN {_range(ffn)}, hidden {self.shape.hidden}, vocabulary {self.shape.vocab}"
        )

    def kept(self, axis: str, layer: int | None) -> torch.Tensor:
        """Indices along a tensor's axis."""
        if axis == "hidden":
            return self.hidden
        if axis == "vocab":
            return torch.arange(self.original.vocab)
        assert layer is not None
        if axis == "ffn":
            return self.ffn[layer]
        per_group = self.original.head_dim
        if axis == "heads":
            per_group *= self.original.heads_per_group
        own = torch.arange(per_group)
        return (self.groups[layer][:, None] * per_group + own).flatten()

    def apply(self, tensor: torch.Tensor, place: Place) -> torch.Tensor:
        """The tensor with the kept entries only."""
        for dim, axis in enumerate(place.axes or ()):
            if axis == "own":
                continue
            offset, indices = 0, []
            for part in parts(axis):
                indices.append(self.kept(part, place.layer) + offset)
                offset += self.original.width(part)
            index = torch.cat(indices)
            if len(index) < tensor.shape[dim]:
                tensor = tensor.index_select(dim, index)
        return tensor.contiguous()


def _range(widths: Sequence[int]) -> str:
    least, most = min(widths), max(widths)
    return str(most) if least == most else f"{least} to {most}"


def choose_cut(
    original: Shape, shape: Shape, scores: Scores, kinds: Sequence[object] | None = None
) -> Cut:
    """The highest-scored layers, groups, channels and hidden entries of a shape. `kinds` says what
    sort each layer is: see `_best_layers`."""
    return Cut(
        original,
        shape,
        _best_layers(scores.layers, kinds or [None] * original.layers, shape.layers),
        tuple(_best(one, shape.groups) for one in scores.groups),
        tuple(_best(one, shape.ffn) for one in scores.ffn),
        _best(scores.hidden, shape.hidden),
    )


def with_widths(cut: Cut, scores: Scores, groups: Widths, ffn: Widths) -> Cut:
    """The cut with a number of groups and of channels for each of its layers."""

    def best(own: Sequence[torch.Tensor], counts: Widths) -> tuple[torch.Tensor, ...]:
        return tuple(_best(score, counts.get(layer, 1)) for layer, score in enumerate(own))

    return dataclasses.replace(cut, groups=best(scores.groups, groups), ffn=best(scores.ffn, ffn))


def expected_cost(cut: Cut, scores: Scores) -> float:
    """What the scores say the cut will cost: only good to put cuts in order."""
    kept = set(cut.layers)
    cost = float(sum(scores.layers[i] for i in range(cut.original.layers) if i not in kept))
    for layer in kept:
        for axis in ("groups", "ffn"):
            own = getattr(scores, axis)[layer]
            cost += float(own.sum() - own[getattr(cut, axis)[layer]].sum())
    hidden = scores.hidden
    return cost + float(hidden.sum() - hidden[cut.hidden].sum()) * cut.original.layers


def require_known(places: Mapping[str, Place], cut: Cut) -> None:
    """Raise `UserError` when a tensor that the layout does not know would have to change."""
    if cut.shape.hidden == cut.original.hidden:
        return
    unknown = [name for name, place in places.items() if place.axes is None]
    if unknown:
        raise UserError(
            f"the hidden width cannot be cut: the axes of {unknown[0]} are not known",
            "leave hidden out of axes, or add the tensor to the architecture's layout",
        )


def layer_kinds(info: CheckpointInfo, layout: Layout) -> list[object]:
    """What sort each layer is, where the architecture has several: sliding and full attention, with
    and without rotary positions."""
    config = read_by_transformers(info.config)
    if config is None:
        raise UserError("transformers does not take this config.json", "check its sizes")
    lists = [getattr(config, name, None) for name in layout.config.per_layer]
    return list(zip(*(one for one in lists if isinstance(one, list)), strict=False))


def _best_layers(scores: torch.Tensor, kinds: Sequence[object], count: int) -> tuple[int, ...]:
    """The layers with the highest sum of scores whose sorts follow each other as the original's
    first do: llama.cpp knows the order of sorts by the architecture and does not read it."""
    none = (-math.inf, ())
    best: list[tuple[float, tuple[int, ...]]] = [(0.0, ()), *[none] * count]
    for layer, score in enumerate(scores.tolist()):
        for place in range(min(count, layer + 1), 0, -1):
            before, chosen = best[place - 1]
            if kinds[layer] == kinds[place - 1] and before + score > best[place][0]:
                best[place] = (before + score, (*chosen, layer))
    return best[count][1]


def _best(scores: torch.Tensor, count: int) -> torch.Tensor:
    return scores.topk(count).indices.sort().values
