"""A network's sizes, how many parameters they make, and which smaller ones are legal."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass

from common.errors import UserError
from toolchain.checkpoint import config_facts
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.layout import Layout, Place, parts, place_of, prefix_of
from toolchain.layer_widths import layer_widths


@dataclass(frozen=True)
class Shape:
    """Sizes. A group is one KV head with its `heads_per_group` query heads of `head_dim`."""

    layers: int
    groups: int
    heads_per_group: int
    head_dim: int
    ffn: int
    hidden: int
    vocab: int

    def width(self, axis: str) -> int:
        """Entries along an axis of a tensor."""
        if axis == "heads":
            return self.groups * self.heads_per_group * self.head_dim
        if axis == "groups":
            return self.groups * self.head_dim
        return int(getattr(self, axis))

    def text(self) -> str:
        """For a reader."""
        heads = self.groups * self.heads_per_group
        return (
            f"{self.layers} layers, {heads} heads in {self.groups} groups, FFN {self.ffn}, "
            f"hidden {self.hidden}, vocabulary {self.vocab}"
        )


def read_shape(info: CheckpointInfo, layout: Layout) -> Shape:
    """The sizes that config.json names. Raises `UserError` when the tensors have others in some
    layer: a model that was pruned with widths per layer."""
    config, keys = info.text_config, layout.config
    heads = _size(config, keys.heads)
    groups = _size({keys.groups: heads, **config}, keys.groups)  # the first Llamas name none
    hidden = _size(config, keys.hidden)
    head_dim = config.get(keys.head_dim) if keys.head_dim else None
    shape = Shape(
        layers=_size(config, keys.layers),
        groups=groups,
        heads_per_group=heads // groups,
        head_dim=int(head_dim or _heads_width(info, layout, hidden) // heads),
        ffn=_size(config, keys.ffn),
        hidden=hidden,
        vocab=_size(config, keys.vocab),
    )
    _require_uniform(info, layout, shape)
    return shape


def places(info: CheckpointInfo, layout: Layout) -> dict[str, Place]:
    """Tensor name → where it belongs."""
    prefix = prefix_of(layout, info)
    return {tensor.name: place_of(layout, prefix, tensor.name) for tensor in info.tensors}


def parameter_counter(info: CheckpointInfo, layout: Layout) -> Callable[[Shape], int]:
    """Counts the parameters of the checkpoint with other sizes; a stored copy of a tied head is
    none. Its tensors are looked at once, however many shapes are counted."""
    where = places(info, layout)
    head = config_facts.output_head(list(where)) if info.tied_embeddings else None
    own = [
        (tensor.shape, where[tensor.name])
        for tensor in info.tensors
        if not config_facts.is_buffer(tensor.name)
        and tensor.name != head
        and where[tensor.name].layer in (None, 0)
    ]

    def count(shape: Shape) -> int:
        return sum(
            math.prod(tensor_shape(sizes, place, shape))
            * (1 if place.layer is None else shape.layers)
            for sizes, place in own
        )

    return count


def tensor_shape(own: tuple[int, ...], place: Place, shape: Shape) -> tuple[int, ...]:
    """A tensor's dimensions in a network of these sizes."""
    if place.axes is None:
        return own
    return tuple(
        own[index] if axis == "own" else sum(shape.width(part) for part in parts(axis))
        for index, axis in enumerate(place.axes)
    )


def with_sizes(shape: Shape, **sizes: int) -> Shape:
    """The shape with some sizes changed."""
    return dataclasses.replace(shape, **sizes)


def _heads_width(info: CheckpointInfo, layout: Layout, hidden: int) -> int:
    """Width of all heads; a config may leave the head size to the architecture's default."""
    name = f"{prefix_of(layout, info)}{layout.layer}.0.{layout.attention_out}.weight"
    return next((tensor.shape[1] for tensor in info.tensors if tensor.name == name), hidden)


def _size(config: object, key: str) -> int:
    assert hasattr(config, "get")
    value = config.get(key)
    if not isinstance(value, int) or value < 1:
        raise UserError(f"config.json has no {key}", "pruning needs to know the sizes")
    return value


def _require_uniform(info: CheckpointInfo, layout: Layout, shape: Shape) -> None:
    if layer_widths(info.config):
        raise UserError(
            "this model was already pruned with widths per layer",
            "prune the model that it was made from",
        )
    where = places(info, layout)
    for tensor in info.tensors:
        place = where[tensor.name]
        if place.axes is not None and tensor_shape(tensor.shape, place, shape) != tensor.shape:
            raise UserError(
                f"{tensor.name} is {list(tensor.shape)}, not as config.json says: this model has "
                "widths per layer",
                "prune the model that it was made from",
            )
