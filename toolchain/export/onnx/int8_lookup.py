"""Nodes that look token embeddings up in 8-bit weights and widen them to float32.

Each makes `out` `[batch, sequence, hidden]` of `input_ids`; the scales lie in `<name>_scales`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from toolchain.export.onnx.int8_weights import BLOCK_ZERO
from toolchain.export.onnx.nodes import node_of

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from onnx import NodeProto

    Add = Callable[[str, NDArray[Any]], None]


def lookup_rows(name: str, out: str) -> list[NodeProto]:
    """`name` is int8 `[tokens, hidden]`."""
    return [
        node_of("Gather", [name, "input_ids"], [f"{out}_q8"], domain="", axis=0),
        node_of("Gather", [f"{name}_scales", "input_ids"], [f"{out}_scale"], domain="", axis=0),
        node_of("Cast", [f"{out}_q8"], [f"{out}_wide"], domain="", to=1),
        node_of("Mul", [f"{out}_wide", f"{out}_scale"], [out], domain=""),
    ]


def lookup_columns(add: Add, name: str, out: str) -> list[NodeProto]:
    """`name` is the head's int8 `[hidden, tokens]`, one scale per token."""
    import numpy as np

    add(f"{out}_last_axis", np.array([-1], np.int64))
    return [
        node_of("Gather", [name, "input_ids"], [f"{out}_columns"], domain="", axis=1),
        node_of("Transpose", [f"{out}_columns"], [f"{out}_q8"], domain="", perm=[1, 2, 0]),
        node_of("Gather", [f"{name}_scales", "input_ids"], [f"{out}_flat"], domain="", axis=0),
        node_of("Unsqueeze", [f"{out}_flat", f"{out}_last_axis"], [f"{out}_scale"], domain=""),
        node_of("Cast", [f"{out}_q8"], [f"{out}_wide"], domain="", to=1),
        node_of("Mul", [f"{out}_wide", f"{out}_scale"], [out], domain=""),
    ]


def lookup_blocks(
    add: Add, name: str, out: str, shape: tuple[int, ...], width: int
) -> list[NodeProto]:
    """`name` is the head's uint8 `[tokens, blocks, block size]`: the last block may be padded to
    `shape`, and `width` is what belongs to the model."""
    import numpy as np

    blocks, size = shape
    add(f"{out}_zero", np.array(BLOCK_ZERO, np.float32))
    add(f"{out}_last_axis", np.array([-1], np.int64))
    add(f"{out}_shape", np.array([0, 0, blocks * size], np.int64))
    add(f"{out}_start", np.array([0], np.int64))
    add(f"{out}_width", np.array([width], np.int64))
    cut = [f"{out}_padded", f"{out}_start", f"{out}_width", f"{out}_last_axis"]
    return [
        node_of("Gather", [name, "input_ids"], [f"{out}_q8"], domain="", axis=0),
        node_of("Gather", [f"{name}_scales", "input_ids"], [f"{out}_flat"], domain="", axis=0),
        node_of("Unsqueeze", [f"{out}_flat", f"{out}_last_axis"], [f"{out}_scale"], domain=""),
        node_of("Cast", [f"{out}_q8"], [f"{out}_wide"], domain="", to=1),
        node_of("Sub", [f"{out}_wide", f"{out}_zero"], [f"{out}_centred"], domain=""),
        node_of("Mul", [f"{out}_centred", f"{out}_scale"], [f"{out}_blocks"], domain=""),
        node_of("Reshape", [f"{out}_blocks", f"{out}_shape"], [f"{out}_padded"], domain=""),
        node_of("Slice", cut, [out], domain=""),
    ]
