"""How zeros are put into a model: the recipe's section `sparsify`, and the options of the verb.

Nothing heavy is imported: the command line's help is made of these fields.
"""

from __future__ import annotations

import re
from typing import Literal

from pydantic import Field, field_validator, model_validator

from common.strict import Strict

MOST = 0.95
LARGEST_GROUP = 64
_PATTERN = re.compile(r"(\d+):(\d+)")


class Sparsify(Strict):
    """Settings of unstructured and N:M pruning. `sparsity` or `pattern` says how many weights of
    the linear modules inside the layers become zero; embeddings and the head stay as they are."""

    sparsity: float | None = Field(
        default=None, ge=0, le=MOST, description="share of the weights to zero (default: 0.5)"
    )
    pattern: str | None = Field(
        default=None, description="N:M, as 2:4 or 4:8: N of every M weights in a row stay"
    )
    method: Literal["magnitude", "wanda", "sparsegpt"] = Field(
        default="sparsegpt", description="what decides which weights go"
    )
    scope: Literal["layer", "global"] = Field(
        default="layer",
        description="layer: the same share everywhere; global: one threshold (magnitude alone)",
    )
    schedule_steps: int = Field(
        default=1, ge=1, le=32, description="reach the target in so many passes (cubic schedule)"
    )
    block_columns: int = Field(
        default=128, ge=1, description="columns that sparsegpt chooses among at once"
    )
    damping: float = Field(
        default=0.01, gt=0, le=1, description="of the Hessian's mean diagonal (sparsegpt)"
    )
    calibration_tokens: int = Field(
        default=16384, ge=512, description="tokens that wanda and sparsegpt see"
    )
    keep_masks: bool = Field(
        default=True, description="later stages (finetune, merge) keep the zeros"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="which calibration texts are taken")

    @property
    def group(self) -> tuple[int, int] | None:
        """N and M of the pattern."""
        found = _PATTERN.fullmatch(self.pattern or "")
        return (int(found[1]), int(found[2])) if found else None

    @property
    def share(self) -> float:
        """Share of the weights that become zero."""
        if self.group is not None:
            kept, size = self.group
            return 1 - kept / size
        return 0.5 if self.sparsity is None else self.sparsity

    @field_validator("sparsity")
    @classmethod
    def _number(cls, value: float | None) -> float | None:
        if value is not None and value != value:
            raise ValueError("NaN is no share")
        return value

    @field_validator("pattern")
    @classmethod
    def _known(cls, value: str | None) -> str | None:
        if value is None:
            return value
        found = _PATTERN.fullmatch(value)
        if not found:
            raise ValueError("a pattern is N:M, as 2:4")
        kept, size = int(found[1]), int(found[2])
        if not 0 < kept < size <= LARGEST_GROUP:
            raise ValueError(f"of N:M, N is at least 1 and below M, M at most {LARGEST_GROUP}")
        if 1 - kept / size > MOST:
            raise ValueError(f"{value} leaves less than {1 - MOST:.0%} of the weights")
        return value

    @model_validator(mode="after")
    def _fits_together(self) -> Sparsify:
        if self.sparsity is not None and self.pattern is not None:
            raise ValueError("give one of sparsity and pattern")
        if self.scope == "global" and self.method != "magnitude":
            raise ValueError("scope global is for method magnitude: other scores do not compare")
        if self.scope == "global" and self.pattern is not None:
            raise ValueError("a pattern holds in every row: take scope layer")
        group = self.group
        if group and self.method == "sparsegpt" and self.block_columns % group[1]:
            raise ValueError(f"block_columns must be a multiple of {group[1]}, the pattern's M")
        return self
