"""The ways in which a decoder is quantized, as data: one row each, best known first."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from common.errors import UserError, near_names

Weights = Literal["block", "block4", "dynamic"]
BLOCK_SIZE = 128


@dataclass(frozen=True)
class Variant:
    """How each part of a decoder is computed.

    `layers` and `head`: `dynamic` has one scale per output channel and quantizes activations as
    they come (fast in prefill); `block` one scale per block of weights (closest to FP32); `block4`
    4 bits, 32 to a block: the values that a GGUF's Q4_0 has.
    `per_row`: what a layer brings back from a wider inner width is quantized position by position.
    `int8_embedding`: token embeddings too, shared with the head where they are tied.
    `last_position`: logits of a prompt's last position alone. `whole_attention`: attention of short
    prompts is computed at once instead of in tiles.
    """

    name: str
    what: str
    layers: Weights
    head: Weights
    per_row: bool = False
    int8_embedding: bool = False
    last_position: bool = False
    whole_attention: bool = False
    block_size: int = BLOCK_SIZE

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


VARIANTS = {
    variant.name: variant
    for variant in (
        Variant(
            "int8-mixed",
            "dynamic per channel, per position where layers narrow; one INT8 embedding",
            layers="dynamic",
            head="dynamic",
            per_row=True,
            int8_embedding=True,
            last_position=True,
            whole_attention=True,
        ),
        Variant(
            "int8-fast",
            "as int8-mixed without the positions' own scales: fastest; smooth the model first",
            layers="dynamic",
            head="dynamic",
            int8_embedding=True,
            last_position=True,
            whole_attention=True,
        ),
        Variant(
            "int8-block",
            "8-bit blocks of weights throughout: closest to FP32, prefill little faster",
            layers="block",
            head="block",
            int8_embedding=True,
            last_position=True,
        ),
        Variant(
            "int4-block",
            "4-bit blocks of 32 in the layers, 8-bit blocks in the head: smallest; calibrate first",
            layers="block4",
            head="block",
            int8_embedding=True,
            last_position=True,
        ),
        Variant(
            "int8-block32",
            "as int8-block with blocks of 32: the values of Q8_0, for weights trained in them",
            layers="block",
            head="block",
            int8_embedding=True,
            last_position=True,
            block_size=32,
        ),
        Variant(
            "int8-dynamic",
            "dynamic per channel in every MatMul, nothing else changed",
            layers="dynamic",
            head="dynamic",
        ),
    )
}


def variant(name: str) -> Variant:
    """The variant of this name; raises `UserError` when there is none."""
    if name not in VARIANTS:
        raise UserError(f"unknown INT8 variant '{name}'", near_names(name, VARIANTS))
    return VARIANTS[name]
