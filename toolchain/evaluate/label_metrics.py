"""Figures of a classifier: accuracy, macro F1, each label's precision and recall, cross-entropy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class LabelFigures:
    """One label. `texts` have it, `predicted` got it; a share without a denominator is 0."""

    label: str
    texts: int
    predicted: int
    precision: float
    recall: float
    f1: float


@dataclass(frozen=True)
class LabelScores:
    """`macro_f1` is the mean F1 of the labels that some text has or got, as in scikit-learn;
    `cross_entropy` the mean negative log-probability of the right label in nats."""

    accuracy: float
    macro_f1: float
    cross_entropy: float
    labels: tuple[LabelFigures, ...]

    def as_json(self) -> dict[str, Any]:
        figures = {"accuracy": self.accuracy, "macro_f1": self.macro_f1}
        labels = [asdict(label) for label in self.labels]
        return {**figures, "cross_entropy": self.cross_entropy, "labels": labels}


def score_labels(
    logits: NDArray[np.float32], right: Sequence[int], labels: Sequence[str]
) -> LabelScores:
    """`logits` `[texts, labels]` against the ids of the right labels."""
    import numpy as np

    from toolchain.evaluate.logits import log_softmax

    wanted = np.asarray(right)
    got = logits.argmax(axis=1)
    nll = -log_softmax(logits)[np.arange(len(wanted)), wanted]
    figures = tuple(_figures(number, label, got, wanted) for number, label in enumerate(labels))
    present = [label.f1 for label in figures if label.texts or label.predicted]
    return LabelScores(
        accuracy=float((got == wanted).mean()),
        macro_f1=float(np.mean(present)),
        cross_entropy=float(nll.mean()),
        labels=figures,
    )


def compare_labels(
    logits: NDArray[np.float32], reference: NDArray[np.float32]
) -> dict[str, float | int]:
    """How near two classifiers are on the same texts: the share with the same answer, and
    KL(reference ‖ model) over the labels in nats."""
    import numpy as np

    from toolchain.evaluate.logits import log_softmax

    mine, theirs = log_softmax(logits), log_softmax(reference)
    kld = np.maximum((np.exp(theirs) * (theirs - mine)).sum(axis=1), 0.0)
    same = logits.argmax(axis=1) == reference.argmax(axis=1)
    return {
        "texts": len(kld),
        "agreement": float(same.mean()),
        "kld_mean": float(kld.mean()),
        "kld_p99": float(np.quantile(kld, 0.99)),
        "kld_max": float(kld.max()),
        "max_abs_diff": float(np.abs(logits - reference).max()),
    }


def _figures(number: int, label: str, got: NDArray[Any], wanted: NDArray[Any]) -> LabelFigures:
    texts, predicted = int((wanted == number).sum()), int((got == number).sum())
    hits = int(((got == number) & (wanted == number)).sum())
    return LabelFigures(
        label,
        texts,
        predicted,
        precision=hits / predicted if predicted else 0.0,
        recall=hits / texts if texts else 0.0,
        f1=2 * hits / (texts + predicted) if texts + predicted else 0.0,
    )
