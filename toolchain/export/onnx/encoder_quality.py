"""What an INT8 encoder loses against its FP32 form, and whether that is within budget."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

from common.errors import UserError
from common.strict import Strict
from runtimes.ort_encoder import (
    CLASSIFY,
    EncoderFacts,
    OrtClassifier,
    OrtEmbedder,
    OrtEncoder,
    OrtTagger,
    open_encoder,
)
from toolchain.export.onnx.encoder_data import Examples, read_examples
from toolchain.export.onnx.encoder_metrics import (
    classifier_figures,
    embedding_figures,
    tagger_figures,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LEAST_TEXTS = 32
_MULTI_LABEL = "multi_label_classification"
_REGRESSION = "regression"


class Budget(Strict):
    """What INT8 may cost. `max_accuracy_loss` is in shares of 1 (0.005: half a point) and counts
    where texts have labels (for taggers: of entity F1); `min_agreement` with FP32 where they have
    none; `min_cosine_mean` for embeddings; `max_difference` of a regression's mean value."""

    max_accuracy_loss: float = Field(0.005, ge=0, le=1)
    min_agreement: float = Field(0.985, ge=0, le=1)
    min_cosine_mean: float = Field(0.99, ge=-1, le=1)
    max_difference: float = Field(0.05, ge=0)


@dataclass(frozen=True)
class Measured:
    """An encoder's figures against FP32 on some texts, and what is beyond the budget."""

    figures: Mapping[str, Any]
    shortfalls: tuple[str, ...]


def read_measurement(file: Path, facts: EncoderFacts) -> Examples:
    """Texts to measure on. Raises `UserError` when they are missing, too few or unfit."""
    return read_examples(file, facts, purpose="measuring INT8 against FP32", least=LEAST_TEXTS)


def outputs(model: OrtEncoder, examples: Examples) -> Any:
    """The encoder's outputs: an array [texts, width], for a tagger one per text."""
    if isinstance(model, OrtTagger):
        return model.word_scores(examples.words)
    if isinstance(model, OrtEmbedder):
        return model.embed(examples.texts)
    if isinstance(model, OrtClassifier):
        return model.scores(examples.texts)
    raise UserError(f"encoders for {model.facts.task} cannot be measured")


def outputs_of(folder: Path, examples: Examples) -> Any:
    """`outputs` of the encoder in `folder`."""
    with open_encoder(folder) as model:
        return outputs(model, examples)


def measure(
    facts: EncoderFacts, reference: Any, found: Any, examples: Examples, budget: Budget
) -> Measured:
    """Figures of `found` against the FP32 outputs `reference`, judged by the budget."""
    figures = _figures(facts, reference, found, examples)
    return Measured(figures, tuple(_shortfalls(figures, budget)))


def divergence(figures: Mapping[str, Any]) -> float:
    """One number that falls as INT8 comes closer to FP32: KLD of the labels, 1 - mean cosine, or
    the mean difference."""
    if "kld" in figures:
        return float(figures["kld"])
    if "cosine_mean" in figures:
        return 1.0 - float(figures["cosine_mean"])
    return float(figures["mean_difference"])


def _figures(
    facts: EncoderFacts, reference: Any, found: Any, examples: Examples
) -> Mapping[str, Any]:
    if not facts.labels:
        return embedding_figures(reference, found)
    if facts.task != CLASSIFY:
        return tagger_figures(reference, found, facts.labels, examples.labels)
    if facts.problem == _REGRESSION:
        return _difference(reference, found)
    if facts.problem == _MULTI_LABEL:
        return _multi_label(reference, found)
    return classifier_figures(reference, found, examples.labels)


def _difference(reference: NDArray[np.float32], found: NDArray[np.float32]) -> Mapping[str, Any]:
    import numpy as np

    apart = np.abs(found - reference)
    return {"mean_difference": float(apart.mean()), "max_difference": float(apart.max())}


def _multi_label(reference: NDArray[np.float32], found: NDArray[np.float32]) -> Mapping[str, Any]:
    """Every label is a question of its own: yes where the logit is above 0."""
    from toolchain.export.onnx.encoder_metrics import mean_kld

    before, after = reference.reshape(-1, 1), found.reshape(-1, 1)
    return {
        "agreement": float(((reference > 0) == (found > 0)).mean()),
        "kld": mean_kld(before, after),
    }


def _shortfalls(figures: Mapping[str, Any], budget: Budget) -> list[str]:
    faults = []
    for name, before in (("accuracy", "reference_accuracy"), ("f1", "reference_f1")):
        if name in figures:
            loss = figures[before] - figures[name]
            if loss > budget.max_accuracy_loss + 1e-9:
                faults.append(
                    f"loses {100 * loss:.2f} points of {name}, "
                    f"budget {100 * budget.max_accuracy_loss:g}"
                )
    unlabelled = "accuracy" not in figures and "f1" not in figures
    if unlabelled and figures.get("agreement", 1.0) < budget.min_agreement:
        faults.append(
            f"agrees with FP32 on {figures['agreement']:.2%}, budget {budget.min_agreement:.2%}"
        )
    if figures.get("cosine_mean", 1.0) < budget.min_cosine_mean:
        faults.append(
            f"mean cosine {figures['cosine_mean']:.4f}, budget {budget.min_cosine_mean:g}"
        )
    if figures.get("mean_difference", 0.0) > budget.max_difference:
        faults.append(
            f"values differ by {figures['mean_difference']:.4f}, budget {budget.max_difference:g}"
        )
    return faults
