"""What matters in a network: a score for every FFN channel, KV group, layer and hidden entry.

`activation` is Wanda's idea (Sun et al. 2023, arXiv:2306.11695) for whole channels: the energy that
a channel adds to the residual stream, norm of its weights times norm of its activations, as a share
of the stream's own. `taylor` is the first-order change of the loss (Molchanov et al. 2019,
arXiv:1906.10771; for LLMs Ma et al. 2023, arXiv:2305.11627). `block-influence` is one minus the
cosine between what enters and what leaves a layer (ShortGPT, Men et al. 2024, arXiv:2403.03853).
`magnitude` looks at weights alone (Han et al. 2015, arXiv:1506.02626), `random` at nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from common.allocator import freed_at_once
from common.errors import UserError
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.calibration import Batch
from toolchain.compress.prune.layout import Axes, Layout, parts
from toolchain.compress.prune.paged import open_paged, reader, run_layer
from toolchain.compress.prune.settings import Prune
from toolchain.compress.prune.shape import Shape, places, read_shape

# What a layer sees at once. More costs memory (the FFN's inner width) and gains no time.
TOKENS_AT_ONCE = 512


@dataclass(frozen=True)
class Scores:
    """Larger matters more. `ffn[layer]` [channels], `groups[layer]` [groups], `layers` [layers],
    `hidden` [width]; what a score sums up to over a cut is what the cut is expected to cost."""

    ffn: tuple[torch.Tensor, ...]
    groups: tuple[torch.Tensor, ...]
    layers: torch.Tensor
    hidden: torch.Tensor


def score(
    info: CheckpointInfo, layout: Layout, batches: Sequence[Batch], settings: Prune
) -> Scores:
    """The scores that the settings name. Raises `UserError` when they are not numbers."""
    shape = read_shape(info, layout)
    if settings.score == "random":
        found = _random(shape, settings.seed)
    elif settings.score == "magnitude":
        found = _magnitude(info, layout, shape)
    elif settings.score == "taylor":
        from toolchain.compress.prune.taylor import taylor

        found = taylor(info, layout, shape, batches)
    else:
        found = _activation(info, layout, shape, batches)
    layers = _layer_scores(info, layout, shape, batches, settings, found)
    found = Scores(found.ffn, found.groups, layers, found.hidden)
    for name in ("ffn", "groups", "layers", "hidden"):
        faults = [i for i, part in enumerate(getattr(found, name)) if not part.isfinite().all()]
        if faults:
            kind = settings.layer_score if name == "layers" else settings.score
            where = "" if name == "hidden" else f" in layer {faults[0]}"
            raise UserError(
                f"{kind} scores of {name} are not numbers{where}",
                "the weights hold NaN, or what they compute overflows: take a checkpoint from "
                "before training diverged",
            )
    return found


def _layer_scores(
    info: CheckpointInfo,
    layout: Layout,
    shape: Shape,
    batches: Sequence[Batch],
    settings: Prune,
    found: Scores,
) -> torch.Tensor:
    kind = settings.layer_score
    if kind == "random":
        return _random(shape, settings.seed).layers
    if kind == "magnitude":
        return _magnitude(info, layout, shape).layers
    if kind == "perplexity":
        from toolchain.compress.prune.taylor import losses_without

        return losses_without(info, layout, batches)
    if settings.score == "activation":
        return found.layers
    return _activation(info, layout, shape, batches).layers


def _random(shape: Shape, seed: int) -> Scores:
    draw = torch.Generator().manual_seed(seed)

    def some(count: int) -> torch.Tensor:
        return torch.rand(count, generator=draw)

    return Scores(
        tuple(some(shape.ffn) for _ in range(shape.layers)),
        tuple(some(shape.groups) for _ in range(shape.layers)),
        some(shape.layers),
        some(shape.hidden),
    )


def _magnitude(info: CheckpointInfo, layout: Layout, shape: Shape) -> Scores:
    """Sums of squared weights, each kind as a share of the network's."""
    read, where = reader(info), places(info, layout)
    ffn = [torch.zeros(shape.ffn) for _ in range(shape.layers)]
    groups = [torch.zeros(shape.groups) for _ in range(shape.layers)]
    layers, hidden = torch.zeros(shape.layers), torch.zeros(shape.hidden)
    for name, place in where.items():
        if place.axes is None or len(place.axes) < 2:
            continue
        squares = read(name).square()
        hidden += _along(squares, place.axes, shape, "hidden")
        if place.layer is None:
            continue
        layers[place.layer] += squares.sum()
        ffn[place.layer] += _along(squares, place.axes, shape, "ffn")
        for axis in ("heads", "groups"):
            own = _along(squares, place.axes, shape, axis)
            groups[place.layer] += own.view(shape.groups, -1).sum(1)
    total = layers.sum()
    return Scores(
        tuple(one / total for one in ffn), tuple(one / total for one in groups), layers / total,
        hidden / hidden.sum(),
    )  # fmt: skip


def _along(squares: torch.Tensor, axes: Axes, shape: Shape, axis: str) -> torch.Tensor:
    """Sums over everything but one axis; zeros where the tensor has not got it."""
    found = torch.zeros(shape.width(axis))
    for index, own in enumerate(axes):
        names = parts(own)
        if axis not in names:
            continue
        others = [i for i in range(squares.dim()) if i != index]
        sums = squares.sum(others) if others else squares
        sizes = [sums.numel()] if own == "own" else [shape.width(name) for name in names]
        found += sum(
            piece for name, piece in zip(names, sums.split(sizes), strict=True) if name == axis
        )
    return found


@dataclass
class _Energy:
    """Sums of squares over tokens: of a module's inputs, by channel."""

    of: torch.Tensor
    batch: Batch | None = None

    def __call__(self, _module: Any, args: tuple[torch.Tensor, ...]) -> None:
        assert self.batch is not None
        self.of += self.batch.own(args[0].detach()).square().sum(0)


@freed_at_once()
def _activation(
    info: CheckpointInfo, layout: Layout, shape: Shape, batches: Sequence[Batch]
) -> Scores:
    """One pass over the calibration tokens, layer by layer."""
    batches = [piece for batch in batches for piece in batch.pieces(TOKENS_AT_ONCE)]
    network = open_paged(info, layout)
    inputs = network.layer_inputs(batches)
    streams = inputs.hidden
    ffn, groups, influence = [], [], []
    hidden = torch.zeros(shape.hidden)
    with torch.no_grad():
        for number in range(shape.layers):
            with network.loaded(number) as module:
                heads, channels = (module.get_submodule(name)
                                   for name in (layout.attention_out, layout.ffn_out))  # fmt: skip
                seen = (_Energy(torch.zeros(heads.weight.shape[1])),
                        _Energy(torch.zeros(channels.weight.shape[1])))  # fmt: skip
                hooks = [part.register_forward_pre_hook(energy)
                         for part, energy in zip((heads, channels), seen, strict=True)]  # fmt: skip
                cosines, stream_energy = [], torch.zeros(shape.hidden)
                for index, batch in enumerate(batches):
                    for energy in seen:
                        energy.batch = batch
                    after = run_layer(module, streams[index], inputs.keywords[index][number])
                    old, new = batch.own(streams[index]), batch.own(after)
                    cosines.append(torch.nn.functional.cosine_similarity(old, new, dim=-1))
                    stream_energy += new.square().sum(0)
                    streams[index] = after
                for hook in hooks:
                    hook.remove()
                own = stream_energy.sum()
                by_head = heads.weight.square().sum(0) * seen[0].of / own
                groups.append(by_head.view(shape.groups, -1).sum(1))
                ffn.append(channels.weight.square().sum(0) * seen[1].of / own)
                influence.append(1 - torch.cat(cosines).mean())
                hidden += stream_energy / own / shape.layers
    return Scores(tuple(ffn), tuple(groups), torch.stack(influence), hidden)
