"""Measure a model of any kind, alone or against another: perplexity, KLD, task scores.

    evaluate("build/edgeforge-demo/laptop", Settings(), against="demo")

The models are loaded one after the other, so that memory holds one. The other is the reference of
KLD; its logits wait on disk, at most `max_reference_bytes` of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.files import require_free_bytes
from common.scratch import ScratchFolder
from toolchain.data.text import COMPANION_FOLDER, TaskExample, evaluation_text, task_examples
from toolchain.evaluate.awkward import AWKWARD_TEXTS
from toolchain.evaluate.chunks import Chunks, choose_chunks
from toolchain.evaluate.generate import answer_task
from toolchain.evaluate.logits import log_softmax, perplexity_of, summarize
from toolchain.evaluate.metrics import score_answers
from toolchain.evaluate.reference import Reference, open_logits, write_logits
from toolchain.evaluate.task import TaskAnswer, choose_examples
from toolchain.models import OpenModel, OpenOptions, model_path, open_model

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_FLOAT32_BYTES = 4
_BLOCK_BYTES = 64 << 20
_LOGITS_FILE = "logits.f32"


@dataclass(frozen=True)
class Settings:
    """What is measured. `text` and `task` default to the checkpoint's companion data, `text` then
    to the project's; `with_text` and `with_task` leave a part out."""

    text: Path | None = None
    task: Path | None = None
    with_text: bool = True
    with_task: bool = True
    metrics: tuple[str, ...] = ("exact_match", "f1")
    max_tokens: int | None = None
    examples: int = 200
    text_tokens: int = 4096
    chunk_tokens: int = 512
    max_reference_bytes: int = 1_000_000_000
    seed: int = 0


@dataclass(frozen=True)
class ModelResult:
    """One model's figures; `scores` are those of the task, by name."""

    model: Mapping[str, Any]
    perplexity: float | None
    perplexity_stderr: float | None
    scores: Mapping[str, float]
    answers: tuple[TaskAnswer, ...]

    def as_json(self) -> dict[str, Any]:
        return {
            "model": dict(self.model),
            "perplexity": self.perplexity,
            "perplexity_stderr": self.perplexity_stderr,
            "scores": dict(self.scores),
        }


@dataclass(frozen=True)
class Evaluation:
    """The model's figures, the other's, and what tells their distributions apart.

    `comparison` has KLD (in nats, the other is the reference) and top-1 agreement.
    """

    result: ModelResult
    other: ModelResult | None
    comparison: Mapping[str, Any] | None
    text: Mapping[str, Any] | None
    task: Mapping[str, Any] | None

    def as_json(self) -> dict[str, Any]:
        return {
            **self.result.as_json(),
            "against": self.other.as_json() if self.other else None,
            "comparison": dict(self.comparison) if self.comparison else None,
            "text": dict(self.text) if self.text else None,
            "task": dict(self.task) if self.task else None,
        }


@dataclass(frozen=True)
class _Inputs:
    """Texts and examples, the same for both models."""

    documents: tuple[str, ...]
    text_name: str
    examples: tuple[TaskExample, ...]
    available_examples: int


@dataclass(frozen=True)
class _Pass:
    """What running one model gave; `logits` and `tokens`, the ids of `_probes`, are set for the
    reference."""

    result: ModelResult
    chunks: Chunks | None
    tokens: Sequence[Sequence[int]] = ()
    logits: Reference | None = None
    comparison: Mapping[str, Any] | None = None


def evaluate(
    model: str, settings: Settings, *, against: str | None = None, options: OpenOptions
) -> Evaluation:
    """Measure `model` and, when given, `against` on the same text and test set.

    Raises `UserError` for bad input, when there is nothing to measure, and when text is to be
    compared but the models do not share a vocabulary.
    """
    data = _data_folder([model, *([against] if against else [])], options)
    if against is None:
        with open_model(model, options) as opened:
            return measure_open(opened, settings, data)
    model_path(model, options)  # a missing model is told before the other one is run
    with ScratchFolder("compare") as folder:
        with open_model(against, options) as opened:
            inputs = _inputs(data or opened.companion, settings)
            other = _reference(opened, inputs, settings, Path(folder))
        with open_model(model, options) as opened:
            return _evaluation(_compared(opened, inputs, settings, other), other, inputs)


def measure_open(model: OpenModel, settings: Settings, data: Path | None = None) -> Evaluation:
    """Measure an open model alone; `data` is a folder with companion data (default: its own)."""
    inputs = _inputs(data or model.companion, settings)
    return _evaluation(_alone(model, inputs, settings), None, inputs)


def _data_folder(models: Sequence[str], options: OpenOptions) -> Path | None:
    """The first of the models' folders that brings companion data along."""
    paths = [model_path(model, options) for model in models]
    return next((path for path in paths if (path / COMPANION_FOLDER).is_dir()), None)


def _inputs(checkpoint: Path, settings: Settings) -> _Inputs:
    documents: tuple[str, ...] = ()
    text_name, examples = "", None
    if settings.with_text:
        source = evaluation_text(checkpoint, settings.text)
        documents, text_name = source.documents, source.name
    if settings.with_task:
        examples = task_examples(checkpoint, settings.task)
    if not documents and not examples:
        raise UserError("there is nothing to measure", "give --text or --task a file")
    chosen = choose_examples(examples or [], settings.examples, settings.seed)
    return _Inputs(documents, text_name, tuple(chosen), len(examples or []))


def _alone(model: OpenModel, inputs: _Inputs, settings: Settings) -> _Pass:
    """Perplexity and task scores of one model."""
    import numpy as np

    chunks = _chunks(model, inputs, settings)
    perplexity = None
    if chunks:
        nll = [_nll(model.runtime.logits(chunk), chunk) for chunk in chunks.tokens]
        perplexity = perplexity_of(np.concatenate(nll))
    return _Pass(_result(model, inputs, settings, perplexity), chunks)


def _reference(model: OpenModel, inputs: _Inputs, settings: Settings, folder: Path) -> _Pass:
    """Run the other model and leave its logits in `folder`; its perplexity comes with KLD."""
    chunks = _chunks(model, inputs, settings)
    if chunks is None:
        return _Pass(_result(model, inputs, settings, None), None)
    vocab_size = model.runtime.vocab_size
    path, size_bytes = folder / _LOGITS_FILE, chunks.positions * vocab_size * _FLOAT32_BYTES
    require_free_bytes(folder, size_bytes, "the other model's logits")
    write_logits(path, chunks, vocab_size, model.runtime.logits)
    logits = open_logits(path, chunks, vocab_size)
    tokens = [model.runtime.tokenize(text, add_special=True) for text in _probes(inputs)]
    return _Pass(_result(model, inputs, settings, None), chunks, tokens, logits)


def _compared(model: OpenModel, inputs: _Inputs, settings: Settings, other: _Pass) -> _Pass:
    """Measure the model against the other's logits."""
    chunks, reference = other.chunks, other.logits
    comparison, perplexity = None, None
    if chunks and reference is not None:
        _require_same_vocabulary(model, inputs, other, reference)
        figures = summarize(list(reference.compare(model.runtime.logits))).as_json()
        perplexity = figures.pop("perplexity"), figures.pop("perplexity_stderr")
        comparison = figures
    result = _result(model, inputs, settings, perplexity)
    return _Pass(result, chunks, comparison=comparison)


def _chunks(model: OpenModel, inputs: _Inputs, settings: Settings) -> Chunks | None:
    """The chunks of the documents to run; nothing without documents."""
    if not inputs.documents:
        return None
    row_bytes = model.runtime.vocab_size * _FLOAT32_BYTES
    return choose_chunks(
        [model.runtime.tokenize(text, add_special=True) for text in inputs.documents],
        context_tokens=min(settings.chunk_tokens, model.context_tokens),
        max_positions=min(settings.text_tokens, settings.max_reference_bytes // row_bytes),
        bos_token_id=model.bos_token_id,
        seed=settings.seed,
    )


def _probes(inputs: _Inputs) -> tuple[str, ...]:
    """Texts on which two models must agree token by token to be compared."""
    return (*inputs.documents, *AWKWARD_TEXTS)


def _nll(logits: NDArray[np.float32], chunk: Sequence[int]) -> NDArray[np.float64]:
    """Negative log-likelihood in nats of each token of a chunk but the first."""
    import numpy as np

    if not np.isfinite(logits).all():
        raise UserError("the model's logits are not finite", "its weights overflow or hold NaN")
    step = max(1, _BLOCK_BYTES // (8 * logits.shape[1]))
    nll = np.empty(len(chunk) - 1)
    for start in range(0, len(nll), step):
        rows = log_softmax(logits[start : start + step][: len(nll) - start])
        targets = np.asarray(chunk[start + 1 : start + 1 + len(rows)])
        nll[start : start + len(rows)] = -rows[np.arange(len(rows)), targets]
    return nll


def _require_same_vocabulary(
    model: OpenModel, inputs: _Inputs, other: _Pass, reference: Reference
) -> None:
    """KLD has a meaning only between distributions over the same tokens."""
    name, theirs = other.result.model["name"], reference.logits.shape[1]
    mend = "compare their answers alone: --text none, with --task FILE"
    if model.runtime.vocab_size != theirs:
        raise UserError(
            f"vocabularies differ: {model.name} has {model.runtime.vocab_size} tokens, "
            f"{name} has {theirs}",
            mend,
        )
    for text, their in zip(_probes(inputs), other.tokens, strict=True):
        mine = model.runtime.tokenize(text, add_special=True)
        if mine != list(their):
            at = next((i for i, (a, b) in enumerate(zip(mine, their, strict=False)) if a != b), -1)
            how = f"token {at} is {mine[at]} and {their[at]}" if at >= 0 else "one goes on longer"
            raise UserError(
                f"vocabularies differ: {model.name} and {name} part on {text[:40]!r}: {how}", mend
            )


def _result(
    model: OpenModel, inputs: _Inputs, settings: Settings, perplexity: tuple[float, float] | None
) -> ModelResult:
    """The model's figures; asks it the task's examples."""
    answers: list[TaskAnswer] = []
    scores: dict[str, float] = {}
    if inputs.examples:
        answers = answer_task(model, inputs.examples, settings.max_tokens)
        texts, references = [a.answer for a in answers], [a.expected for a in answers]
        scores = score_answers(texts, references, settings.metrics)
    value, stderr = perplexity or (None, None)
    facts = {
        **model.as_json(),
        "chat_template": model.chat_template is not None,
        "vocab_size": model.runtime.vocab_size,
    }
    return ModelResult(facts, value, stderr, scores, tuple(answers))


def _evaluation(mine: _Pass, other: _Pass | None, inputs: _Inputs) -> Evaluation:
    comparison = dict(mine.comparison) if mine.comparison else None
    other_result = other.result if other else None
    if comparison and other_result:  # the reference's perplexity is its own, not the comparison's
        other_result = replace(
            other_result,
            perplexity=comparison.pop("reference_perplexity"),
            perplexity_stderr=comparison.pop("reference_perplexity_stderr"),
        )
    text = task = None
    if mine.chunks:
        text = {
            "name": inputs.text_name,
            "positions": mine.chunks.positions,
            "available_tokens": mine.chunks.available_tokens,
        }
    if inputs.examples:
        task = {"examples": len(inputs.examples), "available_examples": inputs.available_examples}
    return Evaluation(mine.result, other_result, comparison, text, task)
