"""config.json of a smaller network, and whether transformers takes it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from common.errors import UserError
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.layout import Layout
from toolchain.compress.prune.shape import (
    Shape,
    parameter_counter,
    places,
    tensor_shape,
    with_sizes,
)
from toolchain.layer_widths import KEY, NAMES

_CONFIG_FAULTS = (ValueError, TypeError, KeyError, AttributeError, ZeroDivisionError)


def sized_config(
    info: CheckpointInfo, layout: Layout, shape: Shape, layers: Sequence[int]
) -> dict[str, Any]:
    """The checkpoint's config with these sizes; `layers` are the numbers of layers that stay."""
    keys = layout.config
    sizes: dict[str, Any] = {
        keys.layers: shape.layers,
        keys.heads: shape.groups * shape.heads_per_group,
        keys.groups: shape.groups,
        keys.ffn: shape.ffn,
        keys.hidden: shape.hidden,
    }
    if keys.heads == keys.groups:
        sizes[keys.heads] = shape.groups
    if keys.head_dim and shape.head_dim * shape.groups * shape.heads_per_group != shape.hidden:
        sizes[keys.head_dim] = shape.head_dim
    config = dict(info.config)
    inner = config.get("text_config")
    target: dict[str, Any] = dict(inner) if isinstance(inner, Mapping) else config
    for name in keys.per_layer:
        if isinstance(target.get(name), list):
            sizes[name] = [target[name][number] for number in layers]
    target.update(sizes)
    if target is not config:
        config["text_config"] = target
    return config


def info_of_sizes(info: CheckpointInfo, layout: Layout) -> Callable[[Shape], CheckpointInfo]:
    """Gives the facts of checkpoints that are not there yet: config, the tensors' shapes, how many
    parameters. Which layers stay does not matter for that."""
    where, count = places(info, layout), parameter_counter(info, layout)

    def sized(shape: Shape) -> CheckpointInfo:
        tensors = tuple(
            dataclasses.replace(tensor, shape=tensor_shape(tensor.shape, place, shape))
            for tensor in info.tensors
            if (place := where[tensor.name]).layer is None or place.layer < shape.layers
        )
        config = sized_config(info, layout, shape, range(shape.layers))
        return dataclasses.replace(info, config=config, tensors=tensors, parameters=count(shape))

    return sized


def per_layer_config(
    config: Mapping[str, Any], widths: Mapping[str, Sequence[int]], groups: int
) -> dict[str, Any]:
    """The config of a network with widths per layer; the size of a head, which can no longer be
    told from its plain sizes, is named. Those are the widest layer's, but for heads where
    transformers refuses their number: the next that it takes, of at most `groups` groups. Raises
    `UserError` when there is none."""
    head_dim = config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
    heads, kv_heads, ffn = NAMES
    widest = max(widths[kv_heads])
    per_group = max(widths[heads]) // widest
    for count in range(widest, groups + 1):
        sizes = {heads: count * per_group, kv_heads: count, ffn: max(widths[ffn])}
        found = {**config, **sizes, "head_dim": head_dim, KEY: dict(widths)}
        if read_by_transformers(found) is not None:
            return found
    raise UserError(
        f"transformers takes no {widest * per_group} heads in a layer of {config['hidden_size']}",
        "leave per_layer out, or hidden out of axes",
    )


def read_by_transformers(config: Mapping[str, Any]) -> Any:
    """The language model's config as transformers reads it; None where it refuses."""
    import transformers
    from huggingface_hub.errors import StrictDataclassError

    plain = {key: value for key, value in config.items() if key != "transformers_version"}
    try:
        return transformers.AutoConfig.for_model(**plain).get_text_config()
    except (*_CONFIG_FAULTS, StrictDataclassError):
        return None


def acceptance(info: CheckpointInfo, layout: Layout, original: Shape) -> Callable[[Shape], bool]:
    """Whether transformers takes a shape: some architectures want a hidden width that is a multiple
    of the number of heads, even where the head size is named."""

    @cache
    def taken(groups: int, hidden: int) -> bool:
        shape = with_sizes(original, groups=groups, hidden=hidden)
        config = sized_config(info, layout, shape, range(original.layers))
        return read_by_transformers(config) is not None

    def accepts(shape: Shape) -> bool:
        same = (shape.groups, shape.hidden) == (original.groups, original.hidden)
        return same or taken(shape.groups, shape.hidden)

    return accepts
