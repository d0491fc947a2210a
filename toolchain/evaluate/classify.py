"""Measure a classifier on a test set of texts and labels, alone or against another classifier.

    evaluate_classifier("my-classifier", Settings(task=Path("test.jsonl")), against="other")

The models are loaded one after the other, so that memory holds one.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from runtimes.protocol import Classifier, Text
from toolchain.data.prepare.formats import RowFault, choose_form, values
from toolchain.data.prepare.readers import read_rows
from toolchain.data.text import COMPANION_FOLDER
from toolchain.encoders import OpenEncoder, open_classifier
from toolchain.evaluate.label_metrics import LabelScores, compare_labels, score_labels
from toolchain.models import OpenOptions, model_path

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_TASK = "task.jsonl"
_SHOWN = 5


@dataclass(frozen=True)
class Settings:
    """`task` defaults to the checkpoint's companion data; `mapping` is from the columns text,
    text_pair and label to the file's. At most `examples` rows are taken, chosen by `seed`."""

    task: Path | None = None
    mapping: Mapping[str, str] = field(default_factory=dict)
    examples: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class LabelledTexts:
    """A test set."""

    name: str
    texts: tuple[Text, ...]
    labels: tuple[str, ...]
    available: int


@dataclass(frozen=True)
class Classified:
    """One model's answers and figures; `logits` `[texts, labels]` in the order of `labels`."""

    model: Mapping[str, Any]
    labels: tuple[str, ...]
    logits: NDArray[np.float32]
    right: tuple[int, ...]
    scores: LabelScores

    def as_json(self) -> dict[str, Any]:
        return {"model": dict(self.model), "scores": self.scores.as_json()}


@dataclass(frozen=True)
class LabelEvaluation:
    """The model's figures, the other's, and how near they are (KLD's reference is the other)."""

    result: Classified
    other: Classified | None
    comparison: Mapping[str, Any] | None
    data: LabelledTexts

    def as_json(self) -> dict[str, Any]:
        task = {"name": self.data.name, "examples": len(self.data.texts)}
        return {
            **self.result.as_json(),
            "against": self.other.as_json() if self.other else None,
            "comparison": dict(self.comparison) if self.comparison else None,
            "task": {**task, "available_examples": self.data.available},
        }


def evaluate_classifier(
    model: str, settings: Settings, *, against: str | None = None, options: OpenOptions
) -> LabelEvaluation:
    """Measure `model` and, when given, `against` on the same texts.

    Raises `UserError` for bad input, labels that a model does not have, and models whose labels
    differ.
    """
    paths = [model_path(name, options) for name in (model, against) if name]
    data = read_labelled(_task_file(paths, settings), settings)
    other = None
    if against is not None:
        with open_classifier(against, options) as opened:
            other = classify_texts(opened, data)
    with open_classifier(model, options) as opened:
        if other is not None and set(other.labels) != set(opened.engine.labels):
            raise UserError(
                f"the labels differ: {opened.name} has {_listed(opened.engine.labels)}; "
                f"{other.model['name']} has {_listed(other.labels)}",
                "compare models that were trained for the same labels",
            )
        mine = classify_texts(opened, data)
    comparison = None
    if other is not None:
        order = [other.labels.index(label) for label in mine.labels]
        comparison = compare_labels(mine.logits, other.logits[:, order])
    return LabelEvaluation(mine, other, comparison, data)


def classify_texts(model: OpenEncoder[Classifier], data: LabelledTexts) -> Classified:
    """An open model's answers to a test set, with its figures."""
    import numpy as np

    labels = model.engine.labels
    right = label_ids(data.labels, labels, model.name)
    logits = model.engine.scores(data.texts)
    if not np.isfinite(logits).all():
        raise UserError(
            f"the logits of {model.name} are not finite", "its weights overflow or hold NaN"
        )
    scores = score_labels(logits, right, labels)
    return Classified(model.as_json(), labels, logits, right, scores)


def read_labelled(path: Path, settings: Settings) -> LabelledTexts:
    """The rows of a test set: text, perhaps text_pair, label. Raises `UserError` naming the row
    that is none."""
    texts: list[Text] = []
    labels: list[str] = []
    form = None
    for where, row in read_rows(path, cache=None, streaming=True):
        try:
            form = form or choose_form("classification", list(row), settings.mapping)
            example = form.build(values(form, row, settings.mapping))
        except RowFault as fault:
            raise UserError(f"{where}: {fault}", "mend that row") from None
        except UserError as error:
            raise UserError(f"{path}: {error.problem}", error.mend) from None
        if example is None:
            raise UserError(f"{where} has no text or no label", "mend that row, or leave it out")
        text, pair = example.text or "", example.text_pair
        texts.append(text if pair is None else (text, pair))
        labels.append(example.label or "")
    if not texts:
        raise UserError(f"{path} has no rows", "give a file with rows in it")
    chosen = list(range(len(texts)))
    if settings.examples is not None and settings.examples < len(texts):
        chosen = sorted(random.Random(settings.seed).sample(chosen, settings.examples))
    return LabelledTexts(
        path.name, tuple(texts[i] for i in chosen), tuple(labels[i] for i in chosen), len(texts)
    )


def label_ids(found: Sequence[str], labels: Sequence[str], name: str) -> tuple[int, ...]:
    """The model's number for each label of a test set: by name; where no name is known and all are
    whole numbers, they are the numbers themselves. Raises `UserError` for unknown labels."""
    numbers = {label: number for number, label in enumerate(labels)}
    unknown = sorted({label for label in found if label not in numbers})
    if len(unknown) == len(set(found)) and all(label.isdecimal() for label in unknown):
        numbers = {str(number): number for number in range(len(labels))}
        unknown = sorted({label for label in found if label not in numbers})
    if unknown:
        raise UserError(
            f"the test set has labels that {name} does not have: {_listed(unknown)}; "
            f"it has {_listed(labels)}",
            "name the column of its labels: --map label=COLUMN",
        )
    return tuple(numbers[label] for label in found)


def label_rows(evaluation: LabelEvaluation) -> list[dict[str, Any]]:
    """Rows of text, label, answer, its probability and whether it is right; both models' side by
    side where there are two."""
    data, columns = evaluation.data, [evaluation.result, *filter(None, [evaluation.other])]
    paired = any(not isinstance(text, str) for text in data.texts)
    rows: list[dict[str, Any]] = []
    for number, text in enumerate(data.texts):
        first, second = (text, "") if isinstance(text, str) else text
        label = evaluation.result.labels[evaluation.result.right[number]]
        row: dict[str, Any] = {"text": first, **({"text_pair": second} if paired else {})}
        row["label"] = label
        for model, suffix in zip(columns, ("", "_other"), strict=False):
            answer, probability = _answer(model, number)
            row[f"answer{suffix}"] = answer
            row[f"probability{suffix}"] = round(probability, 6)
            row[f"right{suffix}"] = answer == label
        rows.append(row)
    return rows


def _answer(model: Classified, number: int) -> tuple[str, float]:
    import numpy as np

    from toolchain.evaluate.logits import log_softmax

    row = log_softmax(model.logits[number : number + 1])[0]
    return model.labels[int(row.argmax())], float(np.exp(row.max()))


def _task_file(paths: Sequence[Path], settings: Settings) -> Path:
    if settings.task is not None:
        return settings.task
    companions = [path / COMPANION_FOLDER / _TASK for path in paths]
    found = next((path for path in companions if path.is_file()), None)
    if found is None:
        raise UserError(
            "there is nothing to measure: a classifier needs texts with labels",
            "give --task a .jsonl or .csv file with the columns text and label",
        )
    return found


def _listed(labels: Sequence[str]) -> str:
    shown = ", ".join(f"'{label}'" for label in labels[:_SHOWN])
    return f"{shown}, … ({len(labels)})" if len(labels) > _SHOWN else shown
