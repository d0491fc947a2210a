"""Figures of an encoder's quality: against right answers, and against the FP32 encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def accuracy(found: NDArray[np.intp], wanted: NDArray[np.intp]) -> float:
    """Share of equal labels."""
    return float((found == wanted).mean()) if len(wanted) else 0.0


def macro_f1(found: NDArray[np.intp], wanted: NDArray[np.intp]) -> float:
    """Mean F1 over the labels that occur in either, each label counting the same."""
    import numpy as np

    scores = []
    for label in np.union1d(found, wanted):
        hits = int(((found == label) & (wanted == label)).sum())
        said, right = int((found == label).sum()), int((wanted == label).sum())
        scores.append(2 * hits / (said + right))
    return float(np.mean(scores)) if scores else 0.0


def mean_kld(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> float:
    """Mean Kullback-Leibler divergence in nats of the labels' probabilities from the reference's.
    One column is one yes-or-no question; otherwise columns are softmax logits: [rows, labels]."""
    import numpy as np

    wanted, found = (_log_shares(values.astype(np.float64)) for values in (reference, logits))
    return float((np.exp(wanted) * (wanted - found)).sum(axis=-1).mean())


def cosines(reference: NDArray[np.float32], found: NDArray[np.float32]) -> NDArray[np.float32]:
    """Cosine of each row with its own reference: [rows]."""
    import numpy as np

    products = (reference * found).sum(axis=-1)
    lengths = np.linalg.norm(reference, axis=-1) * np.linalg.norm(found, axis=-1)
    result: NDArray[np.float32] = products / np.maximum(lengths, 1e-12)
    return result


def same_nearest(reference: NDArray[np.float32], found: NDArray[np.float32]) -> float:
    """Share of rows whose nearest other row (by cosine) is the same one in both."""
    return float((_nearest(reference) == _nearest(found)).mean())


def entity_f1(found: Sequence[Sequence[str]], wanted: Sequence[Sequence[str]]) -> float:
    """F1 of whole entities, as CoNLL counts them: label, start and end must all be right. Labels
    without B- and I- count as runs of one label."""
    hits = said = right = 0
    for mine, truth in zip(found, wanted, strict=True):
        ours, theirs = entities(mine), entities(truth)
        hits, said, right = hits + len(ours & theirs), said + len(ours), right + len(theirs)
    return 2 * hits / (said + right) if said + right else 1.0


def entities(labels: Sequence[str]) -> set[tuple[str, int, int]]:
    """(kind, first word, word after the last) of every entity in a text's labels."""
    found: set[tuple[str, int, int]] = set()
    kind, start = "", 0
    for position, label in enumerate([*labels, "O"]):
        prefixed = label[:2] in {"B-", "I-"}
        own = "" if label == "O" else label[2:] if prefixed else label
        if kind and (own != kind or label.startswith("B-")):
            found.add((kind, start, position))
            kind = ""
        if own and not kind:
            kind, start = own, position
    return found


def classifier_figures(
    reference: NDArray[np.float32], logits: NDArray[np.float32], labels: Sequence[int] | None
) -> dict[str, Any]:
    """Agreement and KLD with the reference; where labels are known accuracy and F1 of both."""
    import numpy as np

    before, after = reference.argmax(axis=-1), logits.argmax(axis=-1)
    figures: dict[str, Any] = {
        "agreement": accuracy(after, before),
        "kld": mean_kld(reference, logits),
    }
    if labels is not None:
        wanted = np.asarray(labels)
        figures |= {
            "accuracy": accuracy(after, wanted),
            "macro_f1": macro_f1(after, wanted),
            "reference_accuracy": accuracy(before, wanted),
            "reference_macro_f1": macro_f1(before, wanted),
        }
    return figures


def embedding_figures(reference: NDArray[np.float32], found: NDArray[np.float32]) -> dict[str, Any]:
    """Cosine with the reference, mean and least, and the share of unchanged nearest neighbours."""
    own = cosines(reference, found)
    return {
        "cosine_mean": float(own.mean()),
        "cosine_min": float(own.min()),
        "same_nearest": same_nearest(reference, found) if len(own) > 1 else 1.0,
    }


def tagger_figures(
    reference: Sequence[NDArray[np.float32]],
    found: Sequence[NDArray[np.float32]],
    names: Sequence[str],
    labels: Sequence[Sequence[int]] | None,
) -> Mapping[str, Any]:
    """Agreement and KLD per word; entity F1 against the reference, and of both against labels."""
    import numpy as np

    flat_before, flat_after = np.concatenate(reference), np.concatenate(found)
    before, after = _named(reference, names), _named(found, names)
    figures = {
        "agreement": accuracy(flat_after.argmax(axis=-1), flat_before.argmax(axis=-1)),
        "kld": mean_kld(flat_before, flat_after),
        "f1_to_reference": entity_f1(after, before),
    }
    if labels is not None:
        wanted = [[names[number] for number in row] for row in labels]
        figures |= {"f1": entity_f1(after, wanted), "reference_f1": entity_f1(before, wanted)}
    return figures


def _named(logits: Sequence[NDArray[np.float32]], names: Sequence[str]) -> list[list[str]]:
    return [[names[number] for number in rows.argmax(axis=-1)] for rows in logits]


def _log_shares(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    import numpy as np

    if logits.shape[-1] == 1:
        logits = np.concatenate([logits, np.zeros_like(logits)], axis=-1)
    top = logits.max(axis=-1, keepdims=True)
    shares: NDArray[np.float64] = (
        logits - top - np.log(np.exp(logits - top).sum(axis=-1, keepdims=True))
    )
    return shares


def _nearest(rows: NDArray[np.float32]) -> NDArray[np.intp]:
    import numpy as np

    unit = rows / np.maximum(np.linalg.norm(rows, axis=-1, keepdims=True), 1e-12)
    likeness = unit @ unit.T
    np.fill_diagonal(likeness, -np.inf)
    nearest: NDArray[np.intp] = likeness.argmax(axis=-1)
    return nearest
