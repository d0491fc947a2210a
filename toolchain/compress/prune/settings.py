"""How a model is pruned: the recipe's section `prune`, and the options of the verb.

Nothing heavy is imported: the command line's help is made of these fields.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from common.strict import Strict

Axis = Literal["layers", "groups", "ffn", "hidden"]
MOST = 0.9
AIMS = ("ratio", "parameters", "size_bytes", "decode_speedup", "decode_tokens_per_sec")


class Prune(Strict):
    """Settings of structured pruning. One of the `AIMS` says how much goes; widths stay the same in
    all layers, so that every runtime loads the result, unless `per_layer` is set."""

    ratio: float | None = Field(
        default=None, ge=0, le=MOST, description="share of all parameters to remove (default: 0.2)"
    )
    nearest: bool = Field(
        default=False,
        description="take the shape nearest to the ratio where none comes within 0.01 of it",
    )
    parameters: int | None = Field(default=None, ge=1, description="parameters that stay, at most")
    size_bytes: int | None = Field(
        default=None, ge=1, description="size of the file in `quantization`, at most"
    )
    decode_speedup: float | None = Field(
        default=None, gt=1, le=20, description="times as fast as the original, on the target"
    )
    decode_tokens_per_sec: float | None = Field(
        default=None, gt=0, description="expected decode speed on the target, at least"
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
    per_layer: bool = Field(
        default=False,
        description="each layer keeps its own number of heads and channels: GGUF only, and plain "
        "transformers does not load the result",
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
        return 0.2 if all(getattr(self, aim) is None for aim in AIMS) else self.ratio

    @property
    def aims_at_speed(self) -> bool:
        """Whether a target's decode speed is asked for."""
        return self.decode_speedup is not None or self.decode_tokens_per_sec is not None

    @property
    def file_type(self) -> str:
        """The quantization whose blocks count."""
        return self.quantization or "Q4_K_M"

    @model_validator(mode="after")
    def _one_target(self) -> Prune:
        if sum(getattr(self, aim) is not None for aim in AIMS) > 1:
            raise ValueError(f"give one of {', '.join(AIMS)}")
        if self.nearest and self.wanted_ratio is None:
            raise ValueError("nearest goes with ratio")
        if isinstance(self.snap, int) and self.snap < 1:
            raise ValueError("snap must be at least 1")
        return self
