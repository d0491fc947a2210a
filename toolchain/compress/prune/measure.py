"""How far a cut network is from the original: KLD on held-back calibration tokens (of an encoder
without a head: one minus the cosine of its vectors)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from toolchain.compress.prune.answers import Kind, answer_kind, answers, distance, open_network
from toolchain.compress.prune.calibration import Batch


@dataclass(frozen=True)
class Reference:
    """The original's answers, one tensor [rows, values] in float16 a batch."""

    batches: Sequence[Batch]
    shares: tuple[torch.Tensor, ...]
    kind: Kind


def reference(checkpoint: Path, batches: Sequence[Batch]) -> Reference:
    """Run the original once."""
    kind = answer_kind(checkpoint)
    with open_network(checkpoint) as network:
        shares = tuple(answers(network, batch, kind).half() for batch in batches)
    return Reference(batches, shares, kind)


def divergence(checkpoint: Path, held: Reference) -> float:
    """Mean distance of a checkpoint's answers from the reference's."""
    total, rows = 0.0, 0
    with open_network(checkpoint) as network:
        for batch, wanted in zip(held.batches, held.shares, strict=True):
            far = distance(wanted.float(), answers(network, batch, held.kind), held.kind)
            total, rows = total + float(far.sum()), rows + len(far)
    return total / rows
