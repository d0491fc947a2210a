"""Seconds that a token's decoding is expected to take on a target, for every smaller shape.

    sec = decode_sec(info, layout, "Q4_K_M", load_target("jetson"))
    sec(read_shape(info, layout))

The planner's arithmetic (`targets/planner.py`): the weights that a token reads and half a full KV
cache at the memory's bandwidth, and an overhead for each layer. What a tensor takes in a type is
asked of llama.cpp's quantizer three times, for rows of whole large blocks, of whole small blocks
and of neither, so that thousands of shapes cost no further run.
"""

from __future__ import annotations

import dataclasses
import math
import statistics
from collections.abc import Callable
from typing import TYPE_CHECKING

from common.errors import UserError
from toolchain.checkpoint import config_facts
from toolchain.checkpoint.info import CheckpointInfo, TensorHeader
from toolchain.compress.prune.config import info_of_sizes, sized_config
from toolchain.compress.prune.layout import Layout, Place
from toolchain.compress.prune.shape import Shape, places, tensor_shape

if TYPE_CHECKING:
    from targets.planner import TypeSize
    from targets.schema import Target

SMALL_BLOCK, LARGE_BLOCK = 32, 256  # values; every GGUF type has blocks of one of them
_INT8 = "int8"


@dataclasses.dataclass(frozen=True)
class _Read:
    """A tensor that decoding reads: its sizes in the original, and bits for a value, by the largest
    block that divides its rows."""

    own: tuple[int, ...]
    place: Place
    bits: dict[int, float]

    def read_bytes(self, shape: Shape) -> float:
        """Bytes for one token, all layers together."""
        sizes = tensor_shape(self.own, self.place, shape)
        block = next(b for b in (LARGE_BLOCK, SMALL_BLOCK, 1) if sizes[-1] % b == 0)
        copies = 1 if self.place.layer is None else shape.layers
        return copies * math.prod(sizes) * self.bits[block] / 8


def decode_sec(
    info: CheckpointInfo, layout: Layout, file_type: str, target: Target
) -> Callable[[Shape], float]:
    """Counts seconds a token, half-way through the target's context. Raises `UserError` where the
    model does not decode or has no GGUF form."""
    from targets.planner import plan
    from toolchain.compress.prune.answers import is_encoder
    from toolchain.plan import model_shape

    if is_encoder(info.path):
        raise UserError(
            "an encoder does not decode, so it has no decode speed",
            "give ratio, parameters or size_bytes",
        )
    onnx = file_type.lower().startswith(_INT8)
    size = _onnx_size(info, layout, file_type) if onnx else _gguf_size(info, layout, file_type)

    def seconds(shape: Shape) -> float:
        config = sized_config(info, layout, shape, range(shape.layers))
        sized = model_shape(dataclasses.replace(info, config=config))
        made = plan(sized, target, [size(shape)], "f32" if onnx else None)
        return 1 / made.candidates[0].decode_tokens_per_sec

    return seconds


def _onnx_size(info: CheckpointInfo, layout: Layout, file_type: str) -> Callable[[Shape], TypeSize]:
    from toolchain.plan_onnx import onnx_sizes

    sized = info_of_sizes(info, layout)
    return lambda shape: onnx_sizes(sized(shape), [file_type])[0]


def _gguf_size(info: CheckpointInfo, layout: Layout, file_type: str) -> Callable[[Shape], TypeSize]:
    from targets.planner import TypeSize

    read = _tensors_read(info, layout, file_type)

    def size(shape: Shape) -> TypeSize:
        total = int(sum(tensor.read_bytes(shape) for tensor in read))
        return TypeSize(file_type, total, total, 0.0, len(read))

    return size


def _tensors_read(info: CheckpointInfo, layout: Layout, file_type: str) -> list[_Read]:
    from toolchain.plan import read_bits

    where = places(info, layout)
    head = config_facts.output_head(list(where)) if info.tied_embeddings else None
    own = [tensor for tensor in info.tensors
           if tensor.name != head and not config_facts.is_buffer(tensor.name)]  # fmt: skip
    by_block = {}
    for block in (LARGE_BLOCK, SMALL_BLOCK, 1):
        rows = [_with_rows(tensor, block) for tensor in own]
        by_block[block] = read_bits(dataclasses.replace(info, tensors=tuple(rows)), file_type)
    found = []
    for tensor in own:
        place = where[tensor.name]
        if place.layer in (None, 0):
            same = [t.name for t in own if where[t.name].rest == place.rest
                    and (where[t.name].layer is None) == (place.layer is None)]  # fmt: skip
            bits = {block: statistics.mean(of[name] for name in same)
                    for block, of in by_block.items()}  # fmt: skip
            found.append(_Read(tensor.shape, place, bits))
    return found


def _with_rows(tensor: TensorHeader, block: int) -> TensorHeader:
    """The tensor with rows that this block divides and no larger one does."""
    shape = tensor.shape if len(tensor.shape) < 2 else (*tensor.shape[:-1], block)
    return dataclasses.replace(tensor, shape=shape)
