"""How a teacher cache is written: options of `edgeforge teacher-cache`.

What decides the rows (`max_tokens`, `packing`, `loss_on`) must be as in the distillation that reads
the cache. Nothing heavy is imported: the command line's help is made of these fields.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from common.strict import Strict
from toolchain.compress.distill.settings import Distill
from toolchain.train.settings import Finetune

MOST_TEMPERATURES = 16
_PART_BATCHES = 128


class TeacherCache(Strict):
    """Settings of a cache."""

    top_k: int = Field(
        default=32,
        ge=1,
        le=4096,
        description="likeliest tokens kept at each place; of the others their mass",
    )
    temperatures: tuple[float, ...] = Field(
        default=(1.0, 2.0, 5.0),
        min_length=1,
        max_length=MOST_TEMPERATURES,
        description="temperatures that a distillation from it can have: the others' mass is kept "
        "for each (2 bytes)",
    )
    max_tokens: int | None = Field(
        default=None,
        ge=8,
        description="longer rows are cut (default: the model's context, at most 2048)",
    )
    packing: bool = Field(default=False, description="fill rows with several examples")
    loss_on: Literal["answers", "all"] = Field(
        default="answers", description="conversations: tokens that are learned"
    )
    batch_size: int = Field(default=8, ge=1, description="rows that the teacher reads at a time")
    part_rows: int = Field(
        default=1024, ge=1, description="rows in a part; a killed run goes on with the next part"
    )
    quantization: Literal["none", "nf4", "int8"] = Field(
        default="none", description="hold the teacher in 4 bit (nf4) or 8 bit (int8)"
    )
    bf16: bool | Literal["auto"] = Field(
        default="auto", description="compute in bfloat16 (auto: on a GPU that can)"
    )
    # Not in a stage's key: who writes a part does not change what is in it.
    processes: int = Field(
        default=1,
        ge=1,
        le=4096,
        exclude=True,
        description="processes (one per GPU) on this machine",
    )
    accelerate_config: Path | None = Field(
        default=None,
        exclude=True,
        description="settings file of `accelerate config` (several machines)",
    )

    @property
    def rows(self) -> Finetune:
        """The same as a training has them, as far as they decide rows and computing."""
        names = ("max_tokens", "packing", "loss_on", "bf16")
        return Finetune(method="full", **{name: getattr(self, name) for name in names})

    @classmethod
    def of_distillation(cls, settings: Distill) -> TeacherCache:
        """The cache that a distillation reads."""
        return cls(
            top_k=settings.top_k,
            temperatures=(settings.temperature,),
            max_tokens=settings.max_tokens,
            packing=settings.packing,
            loss_on=settings.loss_on,
            batch_size=settings.batch_size,
            part_rows=settings.batch_size * _PART_BATCHES,
            quantization=settings.teacher_quantization,
            bf16=settings.bf16,
            processes=settings.processes,
            accelerate_config=settings.accelerate_config,
        )

    @field_validator("temperatures")
    @classmethod
    def _in_range(cls, temperatures: tuple[float, ...]) -> tuple[float, ...]:
        if not all(0.1 <= one <= 100 for one in temperatures):
            raise ValueError("temperatures are between 0.1 and 100")
        return tuple(sorted(set(temperatures)))

    @model_validator(mode="after")
    def _fits_together(self) -> TeacherCache:
        if self.part_rows % self.batch_size:
            raise ValueError("part_rows must be a multiple of batch_size")
        return self
