"""The figures against plain float64 arithmetic, and on cases whose result is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from common.errors import UserError
from toolchain.evaluate import logits as figures


def plain_kld(reference: list[float], other: list[float]) -> float:
    p_sum = math.fsum(math.exp(x) for x in reference)
    q_sum = math.fsum(math.exp(x) for x in other)
    return math.fsum(
        math.exp(a) / p_sum * ((a - math.log(p_sum)) - (b - math.log(q_sum)))
        for a, b in zip(reference, other, strict=True)
    )


def test_figures_equal_plain_arithmetic(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "_BLOCK_BYTES", 3 * 8 * 40)  # blocks of 3 rows: 10 = 3+3+3+1
    rng = np.random.default_rng(0)
    reference = rng.normal(0, 4, (10, 40)).astype(np.float32)
    other = (reference + rng.normal(0, 0.5, (10, 40))).astype(np.float32)
    targets = rng.integers(0, 40, 10).astype(np.int32)
    positions = figures.compare_positions(reference, other, targets)
    expected = [plain_kld(a, b) for a, b in zip(reference.tolist(), other.tolist(), strict=True)]
    assert positions.kld == pytest.approx(expected, rel=1e-10)
    nll = [
        math.log(math.fsum(map(math.exp, row))) - row[t]
        for row, t in zip(other.tolist(), targets, strict=True)
    ]
    assert positions.nll == pytest.approx(nll, rel=1e-12)
    summary = figures.summarize([positions])
    assert summary.kld_mean == pytest.approx(sum(expected) / 10)
    assert summary.kld_max == pytest.approx(max(expected))
    assert summary.perplexity == pytest.approx(math.exp(sum(nll) / 10))
    assert summary.top1_agreement == np.mean(reference.argmax(1) == other.argmax(1))


def test_tiny_klds_are_not_lost_in_rounding() -> None:
    rng = np.random.default_rng(1)
    reference = rng.normal(20, 3, (4, 1000)).astype(np.float32)
    other = reference.copy()
    other[:, 7] += np.float32(1e-4)
    positions = figures.compare_positions(reference, other, np.zeros(4, np.int32))
    expected = [plain_kld(a, b) for a, b in zip(reference.tolist(), other.tolist(), strict=True)]
    assert positions.kld == pytest.approx(expected, rel=1e-3)
    assert (positions.kld > 0).all()


def test_huge_logits_do_not_overflow() -> None:
    logits = np.array([[1e4, 0.0, -1e4]], np.float32)
    positions = figures.compare_positions(logits, logits, np.zeros(1, np.int32))
    assert positions.kld[0] == 0
    assert positions.nll[0] == 0


def test_uniform_model_has_the_vocabulary_as_perplexity() -> None:
    uniform = np.zeros((5, 64), np.float32)
    positions = figures.compare_positions(uniform, uniform, np.arange(5, dtype=np.int32))
    summary = figures.summarize([positions, positions])
    assert summary.positions == 10
    assert summary.perplexity == pytest.approx(64)
    assert summary.perplexity_stderr == pytest.approx(0, abs=1e-9)


def test_values_that_are_not_finite_are_refused() -> None:
    good = np.zeros((2, 4), np.float32)
    bad = good.copy()
    bad[1, 2] = np.nan
    with pytest.raises(UserError, match="not finite"):
        figures.compare_positions(good, bad, np.zeros(2, np.int32))


def test_vocabularies_of_unequal_size_are_refused() -> None:
    with pytest.raises(UserError, match="4 tokens in the reference, 5 in the file"):
        figures.compare_positions(
            np.zeros((2, 4), np.float32), np.zeros((2, 5), np.float32), np.zeros(2, np.int32)
        )


def test_a_disagreement_that_the_reference_holds_for_a_tie_is_counted_apart() -> None:
    reference = np.array([[2.0, 2.0005, 0.0], [2.0, 2.5, 0.0], [3.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    other = np.array([[2.1, 2.0, 0.0], [2.6, 2.5, 0.0], [3.0, 1.0, 0.0], [1.0, 1.1, 0.0]])
    positions = figures.compare_positions(
        reference.astype(np.float32), other.astype(np.float32), np.zeros(4, np.int32)
    )
    summary = figures.summarize([positions])
    assert (summary.top1_agreement, summary.top1_or_tie) == (0.25, 0.75)
