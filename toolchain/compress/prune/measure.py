"""How far a cut network is from the original: KLD and loss on held-back calibration tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from toolchain.compress.prune.calibration import Batch
from toolchain.hf import torch_model


@dataclass(frozen=True)
class Reference:
    """The original's log-probabilities, one tensor [tokens, vocabulary] in float16 a batch."""

    batches: Sequence[Batch]
    shares: tuple[torch.Tensor, ...]


def reference(checkpoint: Path, batches: Sequence[Batch]) -> Reference:
    """Run the original once."""
    with torch_model(checkpoint) as network:
        return Reference(batches, tuple(_log_shares(network, batch).half() for batch in batches))


def divergence(checkpoint: Path, held: Reference) -> float:
    """Mean KLD of a checkpoint's next tokens from the reference's, in nats."""
    total, tokens = 0.0, 0
    with torch_model(checkpoint) as network:
        for batch, wanted in zip(held.batches, held.shares, strict=True):
            found, exact = _log_shares(network, batch), wanted.float()
            total += float((exact.exp() * (exact - found)).sum())
            tokens += len(exact)
    return total / tokens


def _log_shares(network: object, batch: Batch) -> torch.Tensor:
    assert callable(network)
    logits = network(input_ids=batch.ids, attention_mask=batch.valid.long()).logits
    shares: torch.Tensor = logits[batch.valid].float().log_softmax(-1)
    return shares
