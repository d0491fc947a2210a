"""How a model is pruned: the recipe's section `prune`, and the options of the verb.

Nothing heavy is imported: the command line's help is made of these fields.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from common.strict import Strict

Axis = Literal["layers", "groups", "ffn", "hidden"]
MOST = 0.9


class Prune(Strict):
    """Settings of structured pruning. One of `ratio`, `parameters` and `size_bytes` says how much
    goes; widths stay the same in all layers, so that every runtime loads the result."""

    ratio: float | None = Field(
        default=None, ge=0, le=MOST, description="share of all parameters to remove (default: 0.2)"
    )
    parameters: int | None = Field(default=None, ge=1, description="parameters that stay, at most")
    size_bytes: int | None = Field(
        default=None, ge=1, description="size of the file in `quantization`, at most"
    )
    quantization: str | None = Field(
        default=None,
        description="type of the file: widths snap to its blocks (default: the build's, or Q4_K_M)",
    )
    axes: tuple[Axis, ...] = Field(
        default=("layers", "groups", "ffn"),
        min_length=1,
        description="what may be cut: layers, groups (heads of a KV group), ffn, hidden",
    )
    score: Literal["activation", "magnitude", "taylor", "random"] = Field(
        default="activation", description="importance of heads, channels and widths"
    )
    layer_score: Literal["block-influence", "perplexity", "magnitude", "random"] = Field(
        default="block-influence", description="importance of whole layers"
    )
    snap: Literal["auto", "none"] | int = Field(
        default="auto", description="widths are multiples of this; auto: as the format needs"
    )
    recover: bool = Field(
        default=True, description="solve the layers behind each cut anew by least squares"
    )
    calibration_tokens: int = Field(
        default=16384, ge=512, description="tokens that scores and recovery see"
    )
    candidates: int = Field(
        default=6, ge=1, le=64, description="shapes that are made and measured before one is taken"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="for random scores")

    @property
    def wanted_ratio(self) -> float | None:
        """The ratio; None where another target is named."""
        if self.ratio is None and self.parameters is None and self.size_bytes is None:
            return 0.2
        return self.ratio

    @property
    def file_type(self) -> str:
        """The quantization whose blocks count."""
        return self.quantization or "Q4_K_M"

    @model_validator(mode="after")
    def _one_target(self) -> Prune:
        given = [self.ratio, self.parameters, self.size_bytes]
        if sum(value is not None for value in given) > 1:
            raise ValueError("give one of ratio, parameters and size_bytes")
        if isinstance(self.snap, int) and self.snap < 1:
            raise ValueError("snap must be at least 1")
        return self
