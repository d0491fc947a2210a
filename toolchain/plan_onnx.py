"""Sizes of a checkpoint as ONNX, variant by variant, before anything is exported.

    onnx_sizes(info, ("int8-mixed", "int8-dynamic"))

Estimates: weights of matrix products take a byte each and a scale for each `_BLOCK` of them, the
embedding a byte or four, everything else four. A tied output head is a matrix of its own here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from targets.quantization import INT8_EMBEDDING
from toolchain.checkpoint.config_facts import output_head, token_embedding
from toolchain.checkpoint.info import CheckpointInfo

if TYPE_CHECKING:
    from targets.planner import TypeSize

_BLOCK = 128
_FLOAT_BYTES = 4


def onnx_sizes(info: CheckpointInfo, variants: Sequence[str]) -> list[TypeSize]:
    """Bytes of each variant, in the order given; a token's decoding reads all but the embedding."""
    from targets.planner import TypeSize

    names = [tensor.name for tensor in info.tensors]
    embedding_name = token_embedding(names)
    matrices = sum(
        tensor.elements
        for tensor in info.tensors
        if len(tensor.shape) == 2 and tensor.name != embedding_name
    )
    embedding = next((t.elements for t in info.tensors if t.name == embedding_name), 0)
    rest = info.parameters - matrices - embedding
    if output_head(names) is None and info.architecture and "CausalLM" in info.architecture:
        matrices += embedding
    products = int(matrices * (1 + _FLOAT_BYTES / _BLOCK)) + rest * _FLOAT_BYTES
    found = []
    for name in variants:
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
