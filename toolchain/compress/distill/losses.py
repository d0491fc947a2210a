"""Losses of distillation on logits: soft targets and hard labels, mean per learned token.

    total, parts = distillation_loss(logits, positions, labels, targets, settings)

Logits are large (a row of 32k to 256k numbers a token), so they are read in chunks: a chunk's
probabilities and its gradient are computed together and only the gradient is kept, which training
needs anyway. Never are there float32 probabilities of all tokens.

Soft targets with temperature: Hinton et al. 2015 (arXiv:1503.02531). Generalised Jensen-Shannon and
reverse KL: Agarwal et al. 2023 (arXiv:2306.13649). Skewed KL: Ko et al. 2024 (arXiv:2402.03898).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn.functional import cross_entropy

from toolchain.compress.distill.settings import Distill
from toolchain.compress.distill.universal.distance import sorted_distance

CHUNK_BYTES = 1 << 26
_LEAST_LOG = -80.0  # a mass of nothing, as a logarithm that still has a gradient


@dataclass(frozen=True)
class Dense:
    """A teacher's logits [N, V], not softened. Where its V is another than the student's (the table
    is padded differently), the columns that both have are compared."""

    logits: Tensor


@dataclass(frozen=True)
class Sparse:
    """A teacher's likeliest tokens: `ids` [N, k], their `log_probs` [N, k] and the logarithm of the
    probability of all others together, `rest_log_mass` [N]. All are of the distribution softened by
    the run's temperature: log p_T(i) = log p(i) / T - log Σ_j p(j)^(1/T). The student's tokens are
    put together in the same way, so that the loss is exact in these k + 1 parts."""

    ids: Tensor
    log_probs: Tensor
    rest_log_mass: Tensor


@dataclass(frozen=True)
class Unaligned:
    """A teacher's logits [M, V'] of other tokens, where `index` [N] says which of them belongs to
    each learned place: -1 where the teacher has no token border in the text, so that the hard label
    alone counts."""

    logits: Tensor
    index: Tensor


Targets = Dense | Sparse | Unaligned


@dataclass(frozen=True)
class Parts:
    """Sums over the learned tokens, without gradients: `soft` with its factor T², `hard` the cross
    entropy; `tokens` is how many there are."""

    soft: Tensor
    hard: Tensor
    tokens: int


def divergence(settings: Distill) -> Callable[[Tensor, Tensor], Tensor]:
    """The divergence as a function of log-probabilities of teacher and student [n, C] to [n]."""
    if settings.loss == "forward_kl":
        return _kl
    if settings.loss == "reverse_kl":
        return lambda teacher, student: _kl(student, teacher)
    if settings.loss == "skewed_kl":
        return lambda teacher, student: _kl(teacher, _mixed(teacher, student, settings.skew))
    return lambda teacher, student: _jensen_shannon(teacher, student, settings.beta)


def distillation_loss(
    logits: Tensor,
    positions: Tensor,
    labels: Tensor,
    targets: Targets | None,
    settings: Distill,
    *,
    divisor: float | Tensor | None = None,
) -> tuple[Tensor, Parts]:
    """The loss and its parts.

    `logits` [M, V] are the student's at M places, `positions` [N] those that are learned,
    `labels` [N] their labels (-100: no hard label there), `targets` the teacher's at the N.
    Sums are divided by `divisor`, N by default. Without targets only hard labels count.
    """
    tokens = len(positions)
    scale = max(1, tokens) if divisor is None else divisor
    total, soft, hard = _Chunked.apply(logits, positions, labels, targets, settings)
    return total / scale, Parts(soft, hard, tokens)


class _Chunked(torch.autograd.Function):  # type: ignore[misc, unused-ignore]
    """The sum over tokens, with the gradient made in the forward pass chunk by chunk."""

    @staticmethod
    def forward(
        ctx: Any,
        logits: Tensor,
        positions: Tensor,
        labels: Tensor,
        targets: Targets | None,
        settings: Distill,
    ) -> tuple[Tensor, Tensor, Tensor]:
        wide = torch.promote_types(logits.dtype, torch.float32)
        sums = torch.zeros(3, dtype=torch.float64, device=logits.device)
        learns = bool(ctx.needs_input_grad[0])
        gradient = torch.zeros_like(logits) if learns else None
        for chunk in _chunks(len(positions), logits.shape[-1] * wide.itemsize):
            rows = positions[chunk]
            own = logits.index_select(0, rows).to(wide).requires_grad_(learns)
            with torch.set_grad_enabled(learns):
                loss, soft, hard = _of_chunk(own, labels[chunk], targets, chunk, settings)
            if gradient is not None:
                (slope,) = torch.autograd.grad(loss, own)
                gradient.index_copy_(0, rows, slope.to(logits.dtype))
            sums += torch.stack([loss, soft, hard]).detach().double()
        ctx.gradient = gradient
        total, soft, hard = sums.to(wide)
        ctx.mark_non_differentiable(soft, hard)
        return total, soft, hard

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator, unused-ignore]
    def backward(ctx: Any, slope: Tensor, *_parts: Any) -> tuple[Any, ...]:
        gradient, ctx.gradient = ctx.gradient, None
        return gradient.mul_(slope), None, None, None, None


def _of_chunk(
    logits: Tensor, labels: Tensor, targets: Targets | None, chunk: slice, settings: Distill
) -> tuple[Tensor, Tensor, Tensor]:
    """Loss, soft and hard part of a chunk, as sums. Where there is no hard label, the teacher alone
    is heard, and the other way round."""
    soft = hard = logits.new_zeros(len(logits))
    labelled = labels >= 0
    share = settings.alpha * labelled + ~labelled  # of the soft part, token by token
    if targets is None:
        share = torch.zeros_like(soft)
    elif isinstance(targets, Unaligned):
        soft, there = _of_other_tokens(targets, chunk, logits, settings.temperature)
        share = share * there
    else:
        with torch.no_grad():
            wanted = _of_teacher(targets, chunk, logits, settings.temperature)
        given = _of_student(targets, chunk, logits, settings.temperature)
        soft = divergence(settings)(wanted, given) * settings.temperature**2
    if settings.alpha < 1 or targets is None:
        hard = cross_entropy(logits, labels, reduction="none", ignore_index=-100)
    return (share * soft + (1 - share) * hard).sum(), soft.sum(), hard.sum()


def _of_other_tokens(
    targets: Unaligned, chunk: slice, logits: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    """The distance at each place of a chunk, zero where there is no target, and where there is
    one."""
    index = targets.index[chunk]
    there = index >= 0
    teacher = targets.logits.index_select(0, index[there]).to(logits)
    soft = logits.new_zeros(len(logits))
    apart = sorted_distance(logits[there], teacher, temperature)
    return soft.index_put((there.nonzero()[:, 0],), apart), there


def _of_teacher(targets: Dense | Sparse, chunk: slice, like: Tensor, temperature: float) -> Tensor:
    """The teacher's log-probabilities of a chunk: [n, V], or [n, k + 1] with all others last."""
    if isinstance(targets, Dense):
        logits = targets.logits[chunk, : like.shape[-1]].to(like)
        return torch.log_softmax(logits / temperature, -1)
    rest = targets.rest_log_mass[chunk].clamp(min=_LEAST_LOG)
    return torch.cat([targets.log_probs[chunk], rest[:, None]], -1).to(like)


def _of_student(
    targets: Dense | Sparse, chunk: slice, logits: Tensor, temperature: float
) -> Tensor:
    """The student's log-probabilities in the same parts as the teacher's."""
    if isinstance(targets, Dense):
        return torch.log_softmax(logits[:, : targets.logits.shape[-1]] / temperature, -1)
    log_probs = torch.log_softmax(logits / temperature, -1)
    ids = targets.ids[chunk].to(log_probs.device).long()
    own = log_probs.gather(-1, ids)
    if ids.shape[-1] >= logits.shape[-1]:
        return torch.cat([own, own.new_full((len(own), 1), _LEAST_LOG)], -1)
    others = log_probs.scatter(-1, ids, -math.inf)
    return torch.cat([own, torch.logsumexp(others, -1, keepdim=True).clamp(min=_LEAST_LOG)], -1)


def _chunks(tokens: int, row_bytes: int) -> Iterator[slice]:
    size = max(1, CHUNK_BYTES // row_bytes)
    return (slice(start, start + size) for start in range(0, tokens, size))


def _kl(p: Tensor, q: Tensor) -> Tensor:
    """KL(p ‖ q) of log-probabilities [n, C] to [n]."""
    return (p.exp() * (p - q)).sum(-1)


def _mixed(p: Tensor, q: Tensor, share: float) -> Tensor:
    """log(share · p + (1 - share) · q) of log-probabilities."""
    return torch.logaddexp(p + math.log(share), q + math.log1p(-share))


def _jensen_shannon(p: Tensor, q: Tensor, beta: float) -> Tensor:
    mixture = _mixed(p, q, beta)
    return beta * _kl(p, mixture) + (1 - beta) * _kl(q, mixture)
