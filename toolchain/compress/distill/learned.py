"""Which places of a batch are learned: one answer for the student, its labels and the teacher."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolchain.data.prepare.encode import IGNORED, UNLABELLED

if TYPE_CHECKING:
    from torch import Tensor

    from toolchain.train.job import Kind


@dataclass(frozen=True)
class Learned:
    """The N learned places in row-major order: `positions` [N] in the logits as [B·T, V] (or rows
    of [B, C] for a classifier), `labels` [N] (`IGNORED`: only the teacher knows)."""

    positions: Tensor
    labels: Tensor


def learned(batch: dict[str, Any], kind: Kind) -> Learned:
    """The places whose label is no padding: tokens that predict the next one, or rows."""
    labels = batch["labels"]
    if kind == "classification":
        positions = (labels != IGNORED).nonzero()[:, 0]
        own = labels[positions]
        return Learned(positions, own.masked_fill(own == UNLABELLED, IGNORED))
    rows, columns = (labels[:, 1:] >= 0).nonzero(as_tuple=True)
    return Learned(rows * labels.shape[1] + columns, labels[rows, columns + 1])


def flat(logits: Tensor) -> Tensor:
    """Logits as [places, classes]."""
    return logits.reshape(-1, logits.shape[-1])


def inputs_of(batch: dict[str, Any]) -> dict[str, Any]:
    """What a network takes of a batch."""
    return {name: value for name, value in batch.items() if name not in ("labels", "rows")}
