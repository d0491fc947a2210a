"""Figures of encoders against values worked out by hand, and against scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest

from runtimes.ort_encoder import EncoderFacts
from toolchain.export.onnx import encoder_metrics as metrics
from toolchain.export.onnx.encoder_data import Examples
from toolchain.export.onnx.encoder_quality import Budget, divergence, measure


def facts(task: str, labels: tuple[str, ...], problem: str | None = None) -> EncoderFacts:
    width = len(labels) or 2
    return EncoderFacts(task, labels, width, None, False, 8, (), 0, problem, "fp32")


def test_macro_f1_is_that_of_scikit_learn() -> None:
    sklearn = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    found, wanted = random.integers(0, 5, 200), random.integers(0, 4, 200)
    right = sklearn.f1_score(wanted, found, average="macro")
    assert metrics.macro_f1(found, wanted) == pytest.approx(right)


def test_kld_by_hand() -> None:
    reference = np.log(np.array([[0.5, 0.5], [0.9, 0.1]], np.float32)) + 3
    found = np.log(np.array([[0.25, 0.75], [0.9, 0.1]], np.float32))
    right = (0.5 * np.log(0.5 / 0.25) + 0.5 * np.log(0.5 / 0.75)) / 2
    assert metrics.mean_kld(reference, found) == pytest.approx(right, abs=1e-6)
    zero, one = np.zeros((1, 1), np.float32), np.full((1, 1), np.log(3), np.float32)
    right = 0.5 * np.log(0.5 / 0.75) + 0.5 * np.log(0.5 / 0.25)  # a half against three quarters
    assert metrics.mean_kld(zero, one) == pytest.approx(right, abs=1e-6)


def test_cosine_and_nearest_neighbours() -> None:
    rows = [[1, 0], [0.9, 0.1], [0, 1], [0.1, 0.9], [-1, 0], [-0.9, -0.1]]
    reference = np.array(rows, np.float32)
    found = reference.copy()
    found[1] = [0.1, 2.0]
    figures = metrics.embedding_figures(reference, found)
    own = (0.9 * 0.1 + 0.1 * 2) / (np.hypot(0.9, 0.1) * np.hypot(0.1, 2))
    assert figures["cosine_min"] == pytest.approx(own)
    assert figures["cosine_mean"] == pytest.approx((5 + own) / 6)
    # The second row moved to the third and fourth: all but the last two have another nearest.
    assert figures["same_nearest"] == pytest.approx(2 / 6)


def test_entities_as_conll_counts_them() -> None:
    labels = ["B-X", "I-X", "O", "B-X", "B-X", "I-Y", "Z", "Z"]
    assert metrics.entities(labels) == {
        ("X", 0, 2), ("X", 3, 4), ("X", 4, 5), ("Y", 5, 6), ("Z", 6, 8),
    }  # fmt: skip
    found = [["B-X", "O", "O"], ["O", "B-Y"]]
    wanted = [["B-X", "I-X", "O"], ["O", "B-Y"]]
    assert metrics.entity_f1(found, wanted) == 0.5
    assert metrics.entity_f1([["O"]], [["O"]]) == 1.0


def test_the_budget_judges_what_there_is() -> None:
    labels = ("no", "yes")
    reference = np.array([[1, 0], [0, 1], [0, 1], [1, 0]], np.float32)
    found = np.array([[1, 0], [1, 0], [0, 1], [1, 0]], np.float32)
    classify = facts("sequence-classification", labels)
    known = Examples(("a",) * 4, (), (0, 1, 1, 0))
    measured = measure(classify, reference, found, known, Budget())
    assert measured.figures["accuracy"] == 0.75 and measured.figures["reference_accuracy"] == 1
    assert measured.shortfalls == ("loses 25.00 points of accuracy, budget 0.5",)
    assert not measure(classify, reference, found, known, Budget(max_accuracy_loss=0.25)).shortfalls
    unknown = Examples(("a",) * 4, (), None)
    assert "agrees with FP32 on 75.00%" in str(
        measure(classify, reference, found, unknown, Budget()).shortfalls
    )
    embed = facts("embedding", ())
    measured = measure(embed, reference, found, unknown, Budget())
    assert measured.shortfalls == ("mean cosine 0.7500, budget 0.99",)
    assert divergence(measured.figures) == pytest.approx(0.25)


def test_taggers_regressions_and_many_labels() -> None:
    tag = facts("token-classification", ("O", "B-X"))
    before = [np.array([[0, 1], [1, 0]], np.float32)]
    after = [np.array([[1, 0], [1, 0]], np.float32)]
    words = Examples((), (("a", "b"),), ((1, 0),))
    measured = measure(tag, before, after, words, Budget())
    assert measured.figures["f1"] == 0 and measured.figures["reference_f1"] == 1
    assert "points of f1" in measured.shortfalls[0]
    one = facts("sequence-classification", ("score",), "regression")
    value = np.array([[0.5], [1.0]], np.float32)
    measured = measure(one, value, value + 0.1, Examples(("a", "b"), (), None), Budget())
    assert measured.figures["mean_difference"] == pytest.approx(0.1)
    assert "values differ by 0.1000" in measured.shortfalls[0]
    many = facts("sequence-classification", ("x", "y"), "multi_label_classification")
    measured = measure(
        many, np.array([[1, -1]], np.float32), np.array([[1, 1]], np.float32),
        Examples(("a",), (), None), Budget(),
    )  # fmt: skip
    assert measured.figures["agreement"] == 0.5 and measured.figures["kld"] > 0
