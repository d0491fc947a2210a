"""Widths per layer: a uniform cut's heads and channels go where the scores say they matter.

The number of parameters stays that of the uniform cut. llama.cpp holds such a network as its
architecture `deci`; plain transformers does not load it (`toolchain/layer_widths.py`).
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from common.errors import UserError
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.cut import Cut, Widths
from toolchain.compress.prune.layout import Layout
from toolchain.layer_widths import NAMES


def require_layout(info: CheckpointInfo, layout: Layout) -> None:
    """Raise `UserError` where llama.cpp has no such network."""
    if info.model_type not in layout.per_layer_types:
        known = ", ".join(layout.per_layer_types) or "none of this layout"
        raise UserError(
            f"'{info.model_type}' cannot have widths per layer: llama.cpp computes them for "
            f"{known} alone",
            "leave per_layer out: all layers then have the same widths",
        )


def spread(scores: Sequence[torch.Tensor], layers: Sequence[int], width: int, unit: int) -> Widths:
    """How many entries each of `layers` keeps, `width` on average, in whole units: those with the
    highest scores, at least one unit in every layer."""
    if width % unit or len(scores[0]) == width:
        return dict.fromkeys(layers, width)
    gains = []
    for layer in layers:
        whole = len(scores[layer]) // unit * unit
        best = scores[layer].sort(descending=True).values[:whole].view(-1, unit).sum(1)
        gains += [(gain, layer) for gain in best[1:].tolist()]
    kept = dict.fromkeys(layers, unit)
    for _, layer in sorted(gains, reverse=True)[: len(layers) * (width // unit - 1)]:
        kept[layer] += unit
    return kept


def group_unit(cut: Cut, step: int) -> int:
    """Groups that fill whole blocks together, where the original's do."""
    per_group = cut.original.width("heads") // cut.original.groups
    return 1 if cut.original.width("heads") % step else step // math.gcd(step, per_group)


def width_lists(cut: Cut) -> dict[str, list[int]] | None:
    """What `layer_widths` of config.json says of the cut; None where all layers are alike."""
    groups = [len(cut.groups[layer]) for layer in cut.layers]
    ffn = [len(cut.ffn[layer]) for layer in cut.layers]
    if len(set(groups)) == len(set(ffn)) == 1:
        return None
    heads = [number * cut.original.heads_per_group for number in groups]
    return dict(zip(NAMES, (heads, groups, ffn), strict=True))
