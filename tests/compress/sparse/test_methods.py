"""Masks and weight updates of single matrices."""

from __future__ import annotations

import pytest
import torch

from toolchain.compress.sparse.methods import magnitude, sparsegpt, wanda
from toolchain.compress.sparse.schedule import Target, targets
from toolchain.compress.sparse.settings import Sparsify
from toolchain.compress.sparse.threshold import cut_below, global_threshold


def correlated(tokens: int = 2000, width: int = 64) -> torch.Tensor:
    draw = torch.Generator().manual_seed(0)
    mixing = torch.randn(width, width, generator=draw)
    return torch.randn(tokens, width, generator=draw) @ mixing * torch.logspace(-0.3, 0.3, width)


def weights(outputs: int = 48, width: int = 64) -> torch.Tensor:
    return torch.randn(outputs, width, generator=torch.Generator().manual_seed(1))


def pruned(method: str, weight: torch.Tensor, inputs: torch.Tensor, target: Target) -> torch.Tensor:
    moments = inputs.T @ inputs / len(inputs)
    if method == "magnitude":
        return magnitude(weight, target)
    if method == "wanda":
        return wanda(weight, moments.diagonal(), target)
    return sparsegpt(weight, moments, target, block_columns=32)


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize(("zeros", "size"), [(2, 4), (4, 8), (3, 4)])
def test_patterns_are_exact_in_every_group(method: str, zeros: int, size: int) -> None:
    target = Target(zeros / size, zeros, size)
    found = pruned(method, weights(), correlated(), target)
    assert ((found.reshape(-1, size) == 0).sum(1) == zeros).all()


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 0.9])
def test_share_is_met(method: str, share: float) -> None:
    found = pruned(method, weights(), correlated(), Target(share))
    assert float((found == 0).double().mean()) == pytest.approx(share, abs=0.01)


def test_wanda_takes_the_same_share_of_every_row() -> None:
    found = pruned("wanda", weights(), correlated(), Target(0.5))
    assert ((found == 0).sum(1) == 32).all()


def published(weight: torch.Tensor, moments: torch.Tensor, target: Target) -> torch.Tensor:
    """Algorithm 1 of SparseGPT, written down as its authors' code has it, blocks of 32."""
    weight, columns, size = weight.clone(), weight.shape[1], 32
    hessian = 2 * moments
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    root = torch.linalg.cholesky(torch.linalg.inv(hessian.double()), upper=True).float()
    for i1 in range(0, columns, size):
        i2 = i1 + size
        own, inner = weight[:, i1:i2].clone(), root[i1:i2, i1:i2]
        errors, mask = torch.zeros_like(own), torch.zeros_like(own, dtype=torch.bool)
        if target.size is None:
            scores = own**2 / inner.diagonal()[None] ** 2
            limit = scores.flatten().sort().values[int(scores.numel() * target.share) - 1]
            mask = scores <= limit
        for i in range(size):
            if target.size and target.zeros and i % target.size == 0:
                part = slice(i, i + target.size)
                scores = own[:, part] ** 2 / inner.diagonal()[None, part] ** 2
                lowest = scores.topk(target.zeros, dim=1, largest=False).indices
                mask.scatter_(1, i + lowest, True)
            kept = own[:, i].clone()
            kept[mask[:, i]] = 0
            error = (own[:, i] - kept) / inner[i, i]
            own[:, i:] -= error[:, None] @ inner[i : i + 1, i:]
            errors[:, i], own[:, i] = error, kept
        weight[:, i1:i2] = own
        weight[:, i2:] -= errors @ root[i1:i2, i2:]
    return weight


@pytest.mark.parametrize("target", [Target(0.5), Target(0.5, 2, 4), Target(0.75, 6, 8)])
def test_sparsegpt_as_published(target: Target) -> None:
    inputs = correlated()
    found = pruned("sparsegpt", weights(), inputs, target)
    wanted = published(weights(), inputs.T @ inputs / len(inputs), target)
    torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3)


def test_sparsegpt_equals_the_closed_form_for_one_column() -> None:
    """One weight of each row goes: the rest is the least-squares answer (OBS)."""
    weight, inputs = weights(4, 8), correlated(500, 8)
    moments = inputs.T @ inputs / len(inputs)
    found = sparsegpt(weight, moments, Target(1 / 8, 1, 8), 8, damping=1e-9).double()
    for old, new in zip(weight.double(), found, strict=True):
        gone = int((new == 0).nonzero()[0])
        behind = list(range(gone + 1, 8))  # columns before are fixed by then
        hessian = moments.double()
        step = torch.linalg.solve(hessian[behind][:, behind], hessian[behind, gone] * old[gone])
        torch.testing.assert_close(new[behind], old[behind] + step, rtol=1e-3, atol=1e-3)


def test_zeros_from_before_stay() -> None:
    inputs = correlated()
    for method in ("magnitude", "wanda", "sparsegpt"):
        first = pruned(method, weights(), inputs, Target(0.4))
        second = pruned(method, first, inputs, Target(0.6))
        assert (second[first == 0] == 0).all()
        assert float((second == 0).double().mean()) == pytest.approx(0.6, abs=0.01)


def test_global_threshold_is_exact_with_ties() -> None:
    parts = {"a": weights(10, 20), "b": weights(7, 30) * 3, "c": torch.ones(5, 5) * 0.5}
    limit = global_threshold(parts.__getitem__, list(parts), 0.5)
    found = {name: cut_below(value, limit) for name, value in parts.items()}
    everything = torch.cat([value.abs().flatten() for value in parts.values()])
    zeros = sum(int((value == 0).sum()) for value in found.values())
    assert zeros == round(0.5 * len(everything))
    kept = min(float(v[v != 0].abs().min()) for v in found.values() if (v != 0).any())
    assert kept >= float(everything.sort().values[zeros - 1])


def test_cubic_schedule() -> None:
    shares = [target.share for target in targets(Sparsify(sparsity=0.8, schedule_steps=4))]
    assert shares == pytest.approx([0.4625, 0.7, 0.7875, 0.8])
    steps = targets(Sparsify(pattern="4:8", schedule_steps=3))
    assert [(step.zeros, step.size) for step in steps] == [(3, 8), (4, 8)]
