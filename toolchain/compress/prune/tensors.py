"""The cut network's tensors: their names, and their values made from the original's when asked."""

from __future__ import annotations

import torch

from toolchain.checkpoint import config_facts
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.cut import Cut
from toolchain.compress.prune.layout import Layout, prefix_of
from toolchain.compress.prune.paged import reader
from toolchain.compress.prune.shape import places


class CutTensors:
    """`names` are those of the cut network, layers numbered anew, in the order of the original."""

    def __init__(self, info: CheckpointInfo, layout: Layout, cut: Cut) -> None:
        self._cut, self._places = cut, places(info, layout)
        self._read = reader(info)
        head = f"{prefix_of(layout, info)}{layout.layer}"
        new = {number: index for index, number in enumerate(cut.layers)}
        self._source: dict[str, str] = {}
        self.layer_of: dict[str, int | None] = {}
        for name, place in self._places.items():
            if place.layer is None:
                self._source[name], self.layer_of[name] = name, None
            elif place.layer in new:
                layer = new[place.layer]
                own = f"{head}.{layer}.{place.rest}"
                self._source[own], self.layer_of[own] = name, layer
        self.names = list(self._source)
        self._by_width = _by_width(info, layout, cut, config_facts.output_head(self.names))
        self._dtypes = {tensor.name: tensor.dtype for tensor in info.tensors}

    def read(self, name: str, rows: torch.Tensor | None = None) -> torch.Tensor:
        """A tensor's kept entries, as float32; `rows` are some of a tensor whose rows all stay."""
        source = self._source[name]
        value = self._cut.apply(self._read(source, rows), self._places[source])
        if self._by_width is None:
            return value
        embeddings, norm, offset, by = self._by_width
        if source in embeddings:
            return value * by
        return (value + offset) / by - offset if source == norm else value

    def dtype(self, name: str) -> str:
        """The dtype that safetensors names for it: the original's."""
        return self._dtypes[self._source[name]]


def _by_width(
    info: CheckpointInfo, layout: Layout, cut: Cut, head: str | None
) -> tuple[tuple[str | None, ...], str | None, float, float] | None:
    """Where the network multiplies embeddings by the root of its hidden width: the embedding (and a
    stored copy of it), the norm before a head that is tied to it, that norm's offset, and by what
    the embedding grows so that the stream stays as it was."""
    original, kept = cut.original.hidden, cut.shape.hidden
    if not layout.embedding_by_width or kept == original:
        return None
    prefix = prefix_of(layout, info)
    by = (original / kept) ** 0.5
    if not info.tied_embeddings:
        return (f"{prefix}{layout.embedding}",), None, layout.norm_offset, by
    norm = f"{prefix}{layout.final_norm}.weight"
    return (f"{prefix}{layout.embedding}", head), norm, layout.norm_offset, by
