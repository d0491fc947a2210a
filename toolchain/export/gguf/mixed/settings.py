"""What a mixed-precision file is to be: the recipe's section `mixed`.

Nothing heavy is imported: reading a recipe reads these fields.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from common.errors import near_names
from common.strict import Strict
from targets.quantization import QUANTIZATIONS, canonical_quantization

# What a tensor may get where none are named: rows of whole blocks of 256, and other rows. Each type
# costs a run of the model for each tensor.
WIDE_TYPES = ("Q3_K", "IQ4_XS", "Q4_K", "Q5_K", "Q6_K", "Q8_0")
NARROW_TYPES = ("Q4_0", "IQ4_NL", "Q4_1", "Q5_0", "Q5_1", "Q8_0")
# Every type that may be named.
TYPES = tuple(dict.fromkeys(("Q2_K", "IQ3_S", *WIDE_TYPES, *NARROW_TYPES)))
DEFAULT_SIZE = "Q4_K_M"


class Mixed(Strict):
    """Settings of a file whose tensors have each a type of their own: the sum of what they cost in
    KLD, measured on calibration text, is least at a size. One of `size`, `size_bytes` and
    `bits_per_weight`."""

    size: str | None = Field(
        default=None,
        description=f"at most the size of this type's file (default {DEFAULT_SIZE})",
    )
    size_bytes: int | None = Field(default=None, ge=1, description="at most so many bytes")
    bits_per_weight: float | None = Field(
        default=None, gt=0, le=32, description="at most so many bits for a weight, over all"
    )
    types: tuple[str, ...] = Field(
        default=(),
        description=f"types that a tensor may get (default {', '.join(WIDE_TYPES)}; where its rows "
        f"are no multiple of 256, {', '.join(NARROW_TYPES)})",
    )
    keep_speed: bool = Field(
        default=False,
        description="decode no slower than a file of the type `size`, by measured costs of types",
    )
    auto: bool = Field(
        default=False,
        description="quantization auto tries mixed types too, behind the candidate of their size",
    )
    calibration_tokens: int = Field(
        default=2048, ge=256, description="tokens of calibration text that each cost is measured on"
    )
    measure: Literal["auto", "all", "one"] = Field(
        default="auto",
        description="measure each tensor in all types, or in one and reckon the others from their "
        "weighed errors; auto: all up to 10M parameters",
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="which calibration texts are taken")

    @property
    def sized_as(self) -> str | None:
        """The type whose file is as large; None where a number says the size."""
        if self.size_bytes is None and self.bits_per_weight is None:
            return self.size or DEFAULT_SIZE
        return None

    @field_validator("size")
    @classmethod
    def _known_size(cls, name: str | None) -> str | None:
        known = None if name is None else canonical_quantization(name)
        if name is not None and known is None:
            raise ValueError(f"no type of llama.cpp's: {near_names(name, QUANTIZATIONS)}")
        return known

    @field_validator("types")
    @classmethod
    def _known_types(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        found = tuple(dict.fromkeys(name.upper() for name in names))
        unknown = [name for name in found if name not in TYPES]
        if unknown:
            raise ValueError("; ".join(f"'{name}': {near_names(name, TYPES)}" for name in unknown))
        return found

    @model_validator(mode="after")
    def _one_size(self) -> Mixed:
        given = [
            name
            for name in ("size", "size_bytes", "bits_per_weight")
            if getattr(self, name) is not None
        ]
        if len(given) > 1:
            raise ValueError(f"{' and '.join(given)} contradict each other: leave one")
        if self.keep_speed and self.sized_as is None:
            raise ValueError(
                f"keep_speed compares with the file of a type: name it with size, not {given[0]}"
            )
        return self
