"""The sizes of a fresh student: the recipe's key `distill.student`.

student: {layers: 4, width: 512}
student: {ratio: 0.25}

Nothing heavy is imported: the command line's help is made of these fields.
"""

from __future__ import annotations

from pydantic import Field, model_validator

from common.strict import Strict

SIZES = ("layers", "width", "ffn", "heads", "kv_heads")


class Student(Strict):
    """Sizes that are named are kept to. `ratio` or `parameters` chooses the others, in the
    teacher's proportions as far as they are legal; without either, FFN and heads follow `width`
    and what is left is as in the teacher."""

    layers: int | None = Field(default=None, ge=1, description="layers")
    width: int | None = Field(default=None, ge=1, description="hidden width")
    ffn: int | None = Field(default=None, ge=1, description="channels of the FFN")
    heads: int | None = Field(default=None, ge=1, description="attention heads")
    kv_heads: int | None = Field(default=None, ge=1, description="heads of keys and values")
    ratio: float | None = Field(
        default=None, gt=0, lt=1, description="share of the teacher's parameters, at most"
    )
    parameters: int | None = Field(default=None, ge=1, description="parameters, at most")
    snap: int = Field(default=32, ge=1, description="widths that are chosen are multiples of this")
    recover: bool = Field(
        default=True, description="fit the kept layers to what the teacher's give (least squares)"
    )
    calibration_tokens: int = Field(
        default=16384, ge=512, description="tokens that importance and the fit see"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="order of the calibration text")

    @model_validator(mode="after")
    def _names_a_size(self) -> Student:
        if self.ratio is not None and self.parameters is not None:
            raise ValueError("give one of ratio and parameters")
        if all(getattr(self, name) is None for name in (*SIZES, "ratio", "parameters")):
            raise ValueError(f"name a size: {', '.join(SIZES)}, ratio or parameters")
        return self
