"""Scales of one place's channels: those with which the weights that read them lose least.

    found = best_scales([q, k, v], ["Q4_0"] * 3, moments, Channels(hidden), steps=10)

Lin et al. 2023 (AWQ, arXiv:2306.00978): scales are a power of the inputs' size, over a power of the
weights'; the powers are found by trying. What is lost is the squared error of the outputs after
rounding into the very blocks of the file, weighed by the importance matrix that it will have.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from runtimes.ggml_blocks import dequantize_rows, quantize_rows

_LEAST = 1e-4  # scales stay within this: channels that see nothing are not blown up


@dataclass(frozen=True)
class Channels:
    """How `count` channels are read: in runs of `run` (a head's width), each run by `repeats` runs
    of columns that follow each other (the query heads of a KV head)."""

    count: int
    repeats: int = 1
    run: int = 1

    def columns(self, values: torch.Tensor) -> torch.Tensor:
        """Each channel's value at all columns that read it."""
        return values.reshape(-1, 1, self.run).expand(-1, self.repeats, -1).flatten()

    def shared(self, values: torch.Tensor) -> torch.Tensor:
        """Each channel's mean over the columns that read it."""
        return values.reshape(-1, self.repeats, self.run).mean(1).flatten()


@dataclass(frozen=True)
class Scales:
    """`values` [channels] multiply the columns of the readers; the losses are mean squared errors
    of the readers' outputs, summed, without them and with them."""

    values: torch.Tensor
    loss_before: float
    loss_after: float


def best_scales(
    readers: Sequence[torch.Tensor],
    kinds: Sequence[str],
    moments: torch.Tensor,
    channels: Channels,
    steps: int,
) -> Scales:
    """Scales for the columns of `readers`, weights [outputs, inputs] that are fed with one tensor
    and become tensor types `kinds`; `moments` [inputs, inputs] is the mean of x·xᵀ. All 1 where
    nothing is better."""
    best = torch.ones(channels.count)
    before = least = _loss(readers, kinds, moments, channels.columns(best))
    for scales in _candidates(readers, moments, channels, steps):
        loss = _loss(readers, kinds, moments, channels.columns(scales))
        if loss < least:
            best, least = scales, loss
    return Scales(best, before, least)


def _candidates(
    readers: Sequence[torch.Tensor], moments: torch.Tensor, channels: Channels, steps: int
) -> Iterator[torch.Tensor]:
    """For each strength the inputs' size to its power, alone and over the weights' size to the
    rest of the power; in the middle of the largest and the smallest is 1."""
    inputs = channels.shared(moments.diagonal().clamp_min(0)).sqrt()
    weights = channels.shared(sum(_relative(reader) for reader in readers) / len(readers))
    for step in range(1, steps + 1):
        strength = step / steps
        for over in (torch.ones_like(weights), weights.pow(1 - strength)):
            scales = inputs.pow(strength) / over.clamp_min(_LEAST)
            scales = scales.clamp_min(_LEAST * float(scales.max()))
            yield scales / (scales.max() * scales.min()).sqrt()


def _relative(weight: torch.Tensor) -> torch.Tensor:
    """Mean size of each column, each row counted by its largest weight."""
    largest = weight.abs().amax(1, keepdim=True).clamp_min(torch.finfo(weight.dtype).tiny)
    return (weight.abs() / largest).mean(0)


def _loss(
    readers: Sequence[torch.Tensor],
    kinds: Sequence[str],
    moments: torch.Tensor,
    scales: torch.Tensor,
) -> float:
    """Mean squared error of the outputs, summed over the readers."""
    importance = (moments.diagonal().clamp_min(0) / scales.square()).numpy()
    total = 0.0
    for weight, kind in zip(readers, kinds, strict=True):
        blocks = quantize_rows((weight * scales).numpy(), kind, importance)
        values = torch.from_numpy(dequantize_rows(blocks, kind, weight.shape[1]))
        error = values / scales - weight
        total += float(((error @ moments) * error).sum()) / len(weight)
    return total
