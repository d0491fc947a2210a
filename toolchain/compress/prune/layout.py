"""Which tensor has which axes, by architecture: one YAML file each in `layouts/`.

An architecture is added with one such file; nothing else knows names of tensors.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field

from common.errors import UserError
from common.strict import Strict, parse, read_yaml
from toolchain.checkpoint.info import CheckpointInfo

LAYOUTS = Path(__file__).parent / "layouts"
# `own` is an axis that never changes.
TensorAxis = Literal["vocab", "hidden", "heads", "groups", "ffn", "own"]
# One entry for each dimension; a list is a dimension in which several axes follow each other.
Axes = tuple[TensorAxis | tuple[TensorAxis, ...], ...]


class ConfigKeys(Strict):
    """Names of the sizes in config.json; `per_layer` are lists with one entry a layer."""

    layers: str
    heads: str
    groups: str
    ffn: str
    hidden: str
    vocab: str
    head_dim: str | None = None
    per_layer: tuple[str, ...] = ()


class Layout(Strict):
    """An architecture's tensors. `axes` may be cut; `layer` is where its layers lie,
    `attention_out` and `ffn_out` are the linear modules in a layer that heads and channels feed.

    `norms` are modules that divide by the root mean square of the hidden width (with `norm_offset`
    added to their weight), in a layer or outside (`final_norm`). `sums` name, where normalization
    comes after a sum, the norm that takes the sum with the output of a linear module.
    `folds` name, for a module of a layer, those that alone read its last output channels, each
    channel by itself, so that scales may move between them.
    `embedding_by_width`: the network multiplies embeddings by the root of the hidden width.
    `heads_fill_hidden`: the heads together must be as wide as the hidden width.
    `per_layer_types` are those whose layers llama.cpp's architecture `deci` computes too."""

    model_types: tuple[str, ...] = Field(min_length=1)
    prefixes: tuple[str, ...] = ("",)
    axes: tuple[str, ...]
    layer: str
    attention_out: str
    ffn_out: str
    norms: tuple[str, ...] = ()
    final_norm: str | None = None
    norm_offset: float = 0.0
    sums: dict[str, str] = Field(default_factory=dict)
    folds: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    embedding: str | None = None
    embedding_by_width: bool = False
    heads_fill_hidden: bool = False
    per_layer_types: tuple[str, ...] = ()
    config: ConfigKeys
    tensors: dict[str, Axes]
    layer_tensors: dict[str, Axes]


@dataclass(frozen=True)
class Place:
    """Where a tensor of a checkpoint belongs: `layer` is None outside the layers, `rest` its name
    within the layer, `axes` None where the layout does not know it."""

    layer: int | None
    rest: str
    axes: Axes | None


def find_layout(info: CheckpointInfo) -> Layout:
    """The layout of a checkpoint's architecture. Raises `UserError` when there is none."""
    known = _layouts()
    if info.model_type in known:
        return known[info.model_type]
    raise UserError(
        f"pruning does not know the tensors of '{info.model_type or info.architecture}'; it knows "
        f"{', '.join(sorted(known))}",
        f"describe them in a file like those in {LAYOUTS.name}/ of toolchain/compress/prune",
    )


def prefix_of(layout: Layout, info: CheckpointInfo) -> str:
    """What stands before all the layout's names in this checkpoint."""
    names = [tensor.name for tensor in info.tensors]
    for prefix in sorted(layout.prefixes, key=len, reverse=True):
        if any(name.startswith(f"{prefix}{layout.layer}.") for name in names):
            return prefix
    raise UserError(
        f"{info.path} has no tensors {layout.layer}.*", "its names are not those of its model_type"
    )


def place_of(layout: Layout, prefix: str, name: str) -> Place:
    """Where the tensor belongs."""
    own = name.removeprefix(prefix)
    head = f"{layout.layer}."
    if not own.startswith(head):
        return Place(None, own, layout.tensors.get(own))
    number, _, rest = own.removeprefix(head).partition(".")
    return Place(int(number), rest, layout.layer_tensors.get(rest))


def parts(axis: TensorAxis | tuple[TensorAxis, ...]) -> tuple[TensorAxis, ...]:
    """The axes that follow each other in one dimension."""
    return axis if isinstance(axis, tuple) else (axis,)


@functools.cache
def _layouts() -> dict[str, Layout]:
    return {name: layout for layout in _read() for name in layout.model_types}


def _read() -> Iterator[Layout]:
    for path in sorted(LAYOUTS.glob("*.yaml")):
        yield parse(Layout, read_yaml(path), f"layout {path.name}")
