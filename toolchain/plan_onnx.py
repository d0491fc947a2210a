"""Sizes of a checkpoint as ONNX, variant by variant, before anything is exported.

    onnx_sizes(info, ("int8-mixed", "int8-dynamic"))

Estimates: weights of matrix products take a byte each and a scale for each `_BLOCK` of them (in the
layers of variants with a GGUF's blocks a scale for 32, and half a byte where they have 4 bits), the
embedding a byte or four, everything else four. A tied output head is a matrix of its own here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from targets.quantization import INT4_BLOCK, INT8_EMBEDDING, ONNX_OF_BLOCKS, block_values
from toolchain.checkpoint.config_facts import output_head, token_embedding
from toolchain.checkpoint.info import CheckpointInfo

if TYPE_CHECKING:
    from targets.planner import TypeSize

_BLOCK = 128
_FLOAT_BYTES = 4
# Of a weight, with its part of a scale.
_BYTE = 1 + _FLOAT_BYTES / _BLOCK
_SMALL_BLOCKS = {
    name: (1 / 2 if name == INT4_BLOCK else 1) + _FLOAT_BYTES / block_values(name)
    for name in ONNX_OF_BLOCKS.values()
}


def onnx_sizes(info: CheckpointInfo, variants: Sequence[str]) -> list[TypeSize]:
    """Bytes of each variant, in the order given; a token's decoding reads all but the embedding."""
    from targets.planner import TypeSize

    names = [tensor.name for tensor in info.tensors]
    embedding_name = token_embedding(names)
    head_name = output_head(names)
    layers = sum(
        tensor.elements
        for tensor in info.tensors
        if len(tensor.shape) == 2 and tensor.name not in (embedding_name, head_name)
    )
    head = next((t.elements for t in info.tensors if t.name == head_name), 0)
    embedding = next((t.elements for t in info.tensors if t.name == embedding_name), 0)
    rest = info.parameters - layers - head - embedding
    if head_name is None and info.architecture and "CausalLM" in info.architecture:
        head = embedding
    found = []
    for name in variants:
        inner = layers * _SMALL_BLOCKS.get(name, _BYTE)
        products = int(inner + head * _BYTE) + rest * _FLOAT_BYTES
        lookup = embedding * (1 if name in INT8_EMBEDDING else _FLOAT_BYTES)
        found.append(
            TypeSize(
                quantization=name,
                weights_bytes=products + lookup,
                bytes_read_per_token=products,
                bits_per_weight=8 * (products + lookup) / info.parameters,
                tensors=len(info.tensors),
            )
        )
    return found
