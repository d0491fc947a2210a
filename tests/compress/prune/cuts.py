"""Cuts of tiny networks, and the original with what a cut removes set to zero: the exact answer."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tiny_encoders import as_source
from tiny_families import calibration

from toolchain.checkpoint.inspect import inspect
from toolchain.compress.prune.answers import open_network
from toolchain.compress.prune.calibration import Batch, read_batches
from toolchain.compress.prune.candidates import Candidate
from toolchain.compress.prune.cut import Cut
from toolchain.compress.prune.layout import find_layout, prefix_of
from toolchain.compress.prune.scores import score
from toolchain.compress.prune.settings import Prune
from toolchain.compress.prune.shape import parameter_counter, read_shape, with_sizes
from toolchain.compress.prune.stage import _Maker


@dataclass(frozen=True)
class Made:
    """A cut, written as a checkpoint."""

    maker: _Maker
    candidate: Candidate
    path: Path

    @property
    def cut(self) -> Cut:
        """What stays."""
        return self.maker.cut(self.candidate)


def smaller(folder: Path, axes: tuple[str, ...]) -> dict[str, int]:
    """About two thirds of each axis."""
    info = inspect(folder)
    shape = read_shape(info, find_layout(info))
    return {axis: 48 if axis == "hidden" else max(1, getattr(shape, axis) * 2 // 3)
            for axis in axes}  # fmt: skip


def make(folder: Path, out_dir: Path, sizes: dict[str, int], **settings: Any) -> Made:
    """The checkpoint with these sizes."""
    info = inspect(folder)
    layout = find_layout(info)
    text = calibration(out_dir.parent / "calibration.txt")
    batches = read_batches(text, folder, 768, 0)
    wanted = Prune(**settings)
    maker = _Maker(as_source(folder), info, layout, wanted, batches,
                   score(info, layout, batches, wanted))  # fmt: skip
    shape = with_sizes(maker.shape, **sizes)
    parameters, whole = map(parameter_counter(info, layout), (shape, maker.shape))
    candidate = Candidate(shape, parameters, 1 - parameters / whole, 1, wanted.per_layer)
    return Made(maker, candidate, maker.make(candidate, out_dir))


def logits(network: Any, batch: Batch) -> torch.Tensor:
    """What it answers at the tokens that count."""
    made = network(input_ids=batch.ids, attention_mask=batch.valid.long())
    found = made.logits if hasattr(made, "logits") else made.last_hidden_state
    return found if found.dim() == 2 else found[batch.valid]


def masked_logits(made: Made, batch: Batch) -> torch.Tensor:
    """The original's logits with what the cut removed set to zero and dropped layers left out."""
    maker, cut = made.maker, made.cut
    layout, prefix = maker.layout, prefix_of(maker.layout, maker.info)
    with open_network(maker.source.path) as network, torch.inference_mode(False), torch.no_grad():
        layers = network.get_submodule(f"{prefix}{layout.layer}")
        for number, layer in enumerate(layers):
            for name, axis in ((layout.attention_out, "heads"), (layout.ffn_out, "ffn")):
                _zero(layer.get_submodule(name).weight, 1, cut.kept(axis, number))
        _leave_out(network, layers, cut)
        if len(cut.hidden) < cut.original.hidden:
            _narrow(network, layers, made)
        return logits(network, batch)


def _leave_out(network: Any, layers: Any, cut: Cut) -> None:
    body, config = network.base_model, network.config
    kept = torch.nn.ModuleList(layers[number] for number in cut.layers)
    holder = body.encoder if hasattr(body, "encoder") else body
    setattr(holder, "layer" if hasattr(holder, "layer") else "layers", kept)
    config.num_hidden_layers, config.use_cache = len(kept), False
    if isinstance(getattr(config, "layer_types", None), list):
        config.layer_types = [config.layer_types[number] for number in cut.layers]


def _narrow(network: Any, layers: Any, made: Made) -> None:
    """Entries of the stream become zero; norms divide by the root mean square of the rest."""
    cut, layout = made.cut, made.maker.layout
    ratio = (len(cut.hidden) / cut.original.hidden) ** 0.5

    def rescale(norm: Any) -> None:
        for name in ("eps", "variance_epsilon"):
            if hasattr(norm, name):
                setattr(norm, name, getattr(norm, name) * ratio**2)
        norm.weight.data = (norm.weight + layout.norm_offset) * ratio - layout.norm_offset

    body = network.base_model
    if network.config.tie_word_embeddings:
        network.lm_head.weight = torch.nn.Parameter(network.lm_head.weight.clone())
    _zero(body.embed_tokens.weight, 1, cut.hidden)
    for number in cut.layers:
        layer = layers[number]
        for name in (layout.attention_out, layout.ffn_out):
            linear = layer.get_submodule(name)
            _zero(linear.weight, 0, cut.hidden)
            if linear.bias is not None:
                _zero(linear.bias, 0, cut.hidden)
        for name in layout.norms:
            if hasattr(layer, name):
                rescale(layer.get_submodule(name))
    rescale(body.norm)


def _zero(weight: torch.Tensor, dim: int, kept: torch.Tensor) -> None:
    gone = torch.ones(weight.shape[dim], dtype=torch.bool)
    gone[kept] = False
    weight.data[(slice(None),) * dim + (gone,)] = 0
