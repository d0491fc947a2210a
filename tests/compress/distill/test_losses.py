"""The losses against float64 references that are written down plainly, gradients too."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from toolchain.compress.distill import losses
from toolchain.compress.distill.learned import flat, learned
from toolchain.compress.distill.losses import Dense, Sparse, distillation_loss
from toolchain.compress.distill.settings import Distill

ROWS, LENGTH, VOCAB = 3, 7, 23
Divergence = Callable[[Tensor, Tensor], Tensor]


def kl(p: Tensor, q: Tensor) -> Tensor:
    return sum(a * (a / b).log() for a, b in zip(p, q, strict=True))  # type: ignore[return-value]


DIVERGENCES: dict[str, Divergence] = {
    "forward_kl": kl,
    "reverse_kl": lambda p, q: kl(q, p),
    "jensen_shannon": lambda p, q: 0.3 * kl(p, 0.3 * p + 0.7 * q) + 0.7 * kl(q, 0.3 * p + 0.7 * q),
    "skewed_kl": lambda p, q: kl(p, 0.2 * p + 0.8 * q),
}


def a_batch(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Student's and teacher's logits [ROWS, LENGTH, VOCAB], labels with prompts and padding."""
    generator = torch.Generator().manual_seed(seed)
    student, teacher = torch.randn(2, ROWS, LENGTH, VOCAB, generator=generator) * 2
    labels = torch.randint(VOCAB, (ROWS, LENGTH), generator=generator)
    labels[0, :3] = -100  # a prompt
    labels[1, 5:] = -100  # padding
    labels[:, 0] = -100
    return student, teacher, labels


def reference(
    student: Tensor, teacher: Tensor, labels: Tensor, settings: Distill
) -> tuple[float, Tensor]:
    """Loss and gradient, token by token in float64."""
    own = student.double().requires_grad_()
    t, terms = settings.temperature, []
    for row in range(ROWS):
        for place in range(LENGTH - 1):
            label = int(labels[row, place + 1])
            if label == -100:
                continue
            p = (teacher[row, place].double() / t).softmax(0)
            soft = DIVERGENCES[settings.loss](p, (own[row, place] / t).softmax(0))
            hard = -own[row, place].log_softmax(0)[label]
            terms.append(settings.alpha * t**2 * soft + (1 - settings.alpha) * hard)
    loss = torch.stack(terms).mean()
    loss.backward()
    assert own.grad is not None
    return float(loss.detach()), own.grad


@pytest.mark.parametrize("loss", DIVERGENCES)
@pytest.mark.parametrize(("temperature", "alpha"), [(2.0, 0.5), (5.0, 0.5), (1.0, 1.0), (2.0, 0.7)])
def test_equals_the_reference(
    loss: str, temperature: float, alpha: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(losses, "CHUNK_BYTES", 4 * VOCAB * 4)  # four tokens at a time
    settings = Distill(loss=loss, temperature=temperature, alpha=alpha, beta=0.3, skew=0.2)  # type: ignore[arg-type]
    student, teacher, labels = a_batch()
    batch = {"labels": labels}
    places = learned(batch, "causal")
    assert len(places.positions) == 4 + 4 + 6  # no prompt, no padding, no first token
    own = student.clone().requires_grad_()
    targets = Dense(flat(teacher)[places.positions])
    total, parts = distillation_loss(flat(own), places.positions, places.labels, targets, settings)
    total.backward()
    wanted, slope = reference(student, teacher, labels, settings)
    assert float(total.detach()) == pytest.approx(wanted, rel=1e-5)
    torch.testing.assert_close(own.grad, slope.float(), rtol=1e-4, atol=1e-6)
    mixed = alpha * float(parts.soft) + (1 - alpha) * float(parts.hard)
    assert mixed / parts.tokens == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("loss", DIVERGENCES)
def test_sparse_targets_with_every_token_are_dense_ones(loss: str) -> None:
    settings = Distill(loss=loss, temperature=2.0)  # type: ignore[arg-type]
    student, teacher, labels = a_batch(1)
    places = learned({"labels": labels}, "causal")
    logits = flat(teacher)[places.positions]
    best = (logits / 2).log_softmax(-1).sort(-1, descending=True)
    whole = Sparse(best.indices, best.values, torch.full((len(logits),), -math.inf))
    given = (flat(student), places.positions, places.labels)
    dense, _ = distillation_loss(*given, Dense(logits), settings)
    sparse, _ = distillation_loss(*given, whole, settings)
    assert float(sparse) == pytest.approx(float(dense), rel=1e-5)


def test_sparse_targets_put_the_rest_together() -> None:
    settings = Distill(temperature=2.0, alpha=1.0)
    student, teacher, labels = a_batch(2)
    places = learned({"labels": labels}, "causal")
    p = (flat(teacher)[places.positions].double() / 2).softmax(-1)
    own = student.double().requires_grad_()
    q = (flat(own)[places.positions] / 2).softmax(-1)
    top = p.topk(4)
    parts = [
        torch.cat([x.gather(-1, top.indices), 1 - x.gather(-1, top.indices).sum(-1, True)], -1)
        for x in (p, q)
    ]
    wanted = 4 * (parts[0] * (parts[0] / parts[1]).log()).sum(-1).mean()
    (slope,) = torch.autograd.grad(wanted, own)
    targets = Sparse(top.indices, top.values.log(), (1 - top.values.sum(-1)).log())
    student.requires_grad_()
    found, _ = distillation_loss(flat(student), places.positions, places.labels, targets, settings)
    found.backward()
    assert float(found.detach()) == pytest.approx(float(wanted.detach()), rel=1e-5)
    assert student.grad is not None
    torch.testing.assert_close(student.grad, slope.float(), rtol=1e-4, atol=1e-6)


def test_without_a_label_the_teacher_alone_is_heard() -> None:
    student, teacher, _ = a_batch(3)
    positions = torch.arange(4)
    targets = Dense(flat(teacher)[positions])
    half, all_soft = Distill(alpha=0.5), Distill(alpha=1.0)
    unlabelled, _ = distillation_loss(
        flat(student), positions, torch.full((4,), -100), targets, half
    )
    wanted, _ = distillation_loss(flat(student), positions, torch.arange(4), targets, all_soft)
    assert float(unlabelled) == pytest.approx(float(wanted), rel=1e-6)


def test_never_more_than_a_chunk_in_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of tensors as large as all probabilities only the gradient is made, in the logits' type."""
    tokens, vocab = 64, 512
    monkeypatch.setattr(losses, "CHUNK_BYTES", 8 * vocab * 4)
    student = torch.randn(tokens, vocab).bfloat16().requires_grad_()
    targets = Dense(torch.randn(tokens, vocab).bfloat16())
    seen = Sizes()
    with seen:
        loss, _ = distillation_loss(
            student, torch.arange(tokens), torch.arange(tokens), targets, Distill()
        )
        loss.backward()
    assert seen.largest[torch.float32] == 8 * vocab
    assert seen.largest[torch.bfloat16] == tokens * vocab
    assert seen.whole == {"aten.zeros_like.default": 1}  # the gradient


class Sizes(TorchDispatchMode):
    """Notes the largest tensor of each type that an operation makes (views and work in place make
    none), and which operations made one of 64 x 512."""

    def __init__(self) -> None:
        super().__init__()
        self.largest: dict[torch.dtype, int] = {}
        self.whole: dict[str, int] = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        before = {x.untyped_storage().data_ptr() for x in _tensors(args)}
        made = func(*args, **(kwargs or {}))
        for x in _tensors([made]):
            if x.untyped_storage().data_ptr() in before:
                continue
            self.largest[x.dtype] = max(self.largest.get(x.dtype, 0), x.numel())
            if x.numel() == 64 * 512:
                self.whole[str(func)] = self.whole.get(str(func), 0) + 1
        return made


def _tensors(values: object) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    if isinstance(values, list | tuple):
        return [x for value in values for x in _tensors(value)]
    return []
