"""Figures of classifiers, against scikit-learn's and torch's."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import accuracy_score, f1_score, precision_recall_fscore_support

from toolchain.evaluate.label_metrics import compare_labels, score_labels

LABELS = ("a", "b", "c", "d", "never")


def test_figures_are_those_of_scikit_learn_and_torch() -> None:
    import torch

    chance = np.random.default_rng(0)
    logits = chance.normal(size=(200, 5)).astype(np.float32)
    logits[:, 4] -= 100
    right = chance.integers(0, 4, size=200).tolist()
    got = logits.argmax(axis=1)
    found = score_labels(logits, right, LABELS)
    assert found.accuracy == pytest.approx(accuracy_score(right, got))
    assert found.macro_f1 == pytest.approx(f1_score(right, got, average="macro"))
    wanted = precision_recall_fscore_support(right, got, labels=range(5), zero_division=0)
    for number, figures in enumerate(found.labels):
        shown = (figures.precision, figures.recall, figures.f1, figures.texts)
        assert shown == pytest.approx([column[number] for column in wanted])
    loss = torch.nn.functional.cross_entropy(torch.from_numpy(logits), torch.tensor(right))
    assert found.cross_entropy == pytest.approx(float(loss), rel=1e-5)
    assert found.as_json()["labels"][4] == {
        "label": "never", "texts": 0, "predicted": 0, "precision": 0, "recall": 0, "f1": 0,
    }  # fmt: skip


def test_a_model_is_as_near_to_itself_as_can_be_and_not_to_another() -> None:
    chance = np.random.default_rng(1)
    first, second = (chance.normal(size=(50, 3)).astype(np.float32) for _ in range(2))
    same = compare_labels(first, first)
    assert (same["agreement"], same["kld_max"], same["max_abs_diff"]) == (1, 0, 0)
    found = compare_labels(first, second)
    p, q = (np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in (second, first))
    assert found["kld_mean"] == pytest.approx((p * np.log(p / q)).sum(1).mean(), rel=1e-4)
    assert found["agreement"] == (first.argmax(1) == second.argmax(1)).mean()
