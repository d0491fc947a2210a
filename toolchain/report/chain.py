"""The report's part on what the recipe did before the export: before and after, training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.evaluate.guessing import is_guessing
from toolchain.ledger.entry import tasks_in_order
from toolchain.report.markdown import MISSING, escape, figure, table
from toolchain.report.strings import name_of, text

_ANSWER_CHARACTERS = 300
_SETTINGS = (
    *("exact", "loss", "temperature", "alpha", "loss_on", "method", "rank", "lora_alpha", "dora"),
    *("quantization", "learning_rate", "epochs", "seed"),
)
# Figures of a training, in the report's order; what a run does not have is left out.
_FIGURES = (
    *("trainable_parameters", "trainable_share", "train_examples", "steps", "tokens_seen"),
    *("final_train_loss", "validation_loss", "validation_loss_soft", "validation_loss_hard"),
    *("validation_accuracy", "validation_macro_f1"),
    "kept_step",
)

# Metric of a task → the gate that has it for the exported file.
_EXPORTED = {"exact_match": "task score", "accuracy": "accuracy", "macro_f1": "macro F1"}


def before_and_after(manifest: Mapping[str, Any], language: str) -> str:
    """Every `evaluate` of the chain in a column of its own, and the exported file in the last."""
    evaluations = manifest.get("evaluations") or []
    if not evaluations:
        return ""
    columns = [*(found["measured"] for found in evaluations), manifest["quantization"]]
    perplexities = [found["perplexity"] for found in evaluations]
    name = name_of("perplexity", language)
    rows = [_row(name, perplexities, _gate(manifest, "perplexity"))]
    if not any(perplexities):
        rows.clear()
    for task, metric in _scores(evaluations):
        figures = [f["tasks"].get(task, {}).get("scores", {}).get(metric) for f in evaluations]
        first = task == _first_task(evaluations)
        last = _gate(manifest, _EXPORTED.get(metric, "")) if first else None
        name = f"{name_of(metric, language)} ({text('task_' + task, language)})"
        rows.append(_row(name, figures, last))
    for key in ("parameters", "weight_bytes"):
        if any(found.get(key) for found in evaluations):
            sizes = [found.get(key) for found in evaluations]
            rows.append(_row(name_of(key, language), sizes, None))
    headers = " | ".join(["", *(name_of(column, language) for column in columns)])
    parts = [
        table(headers, rows),
        text("before_note", language),
        _guessing(evaluations[0], language),
    ]
    return "\n\n".join(part for part in parts if part)


def answers(manifest: Mapping[str, Any], language: str) -> str:
    """Sample prompts with the answers before and after, one table."""
    rows = [
        tuple(
            escape(_short(str(sample[key]))) for key in ("prompt", "reference", "before", "after")
        )
        for sample in manifest.get("samples") or []
    ]
    return table(text("answers_columns", language), rows) if rows else ""


def training(manifest: Mapping[str, Any], language: str) -> str:
    """Settings, figures and loss curve of every training."""
    parts = []
    for run in manifest.get("training") or []:
        measured = [key for key in _FIGURES if run.get(key) is not None]
        rows = [(name_of(key, language), figure(run[key])) for key in measured]
        curve = f"\n\n![{text('loss_curve', language)}]({run['curve']})" if run["curve"] else ""
        figures = table(text("figures_columns", language), rows)
        told = escape(", ".join(_told(run["settings"])))
        parts.append(f"{told}{_taught(run, language)}\n\n{figures}{curve}")
    return "\n\n".join(parts)


def _told(settings: Mapping[str, Any]) -> list[str]:
    """A training's settings in words, without those of an adapter where none was trained."""
    of_adapter = {"rank", "dora", "quantization", "lora_alpha"}
    if "lora_alpha" not in settings:  # in `finetune` it is called `alpha`
        of_adapter.add("alpha")
    hidden = of_adapter if settings.get("method") == "full" else set()
    keys = [key for key in _SETTINGS if settings.get(key) is not None and key not in hidden]
    return [f"{key} {settings[key]}" for key in keys]


def _taught(run: Mapping[str, Any], language: str) -> str:
    """Who learned from whom, where one was taught."""
    student, teacher = run.get("student_parameters"), run.get("teacher_parameters")
    if not student or not teacher or student == teacher:  # of itself, it gets no faster
        return ""
    factor = f"{teacher / student:.2f}"
    sizes = {"student": figure(student), "teacher": figure(teacher), "factor": factor}
    return "\n\n" + text("distilled", language, **sizes)


def _guessing(first: Mapping[str, Any], language: str) -> str:
    """A warning where the original's perplexity is that of a guess."""
    measured = first.get("text") or {}
    if not is_guessing(first["perplexity"], measured.get("vocab_size")):
        return ""
    return text(
        "guessing",
        language,
        name=escape(measured["name"]),
        perplexity=figure(first["perplexity"]),
        tokens=figure(measured["vocab_size"]),
    )


def _row(name: str, figures: Sequence[float | None], last: float | None) -> tuple[str, ...]:
    return (name, *map(figure, figures), MISSING if last is None else figure(last))


def _scores(evaluations: Sequence[Mapping[str, Any]]) -> list[tuple[str, str]]:
    """(task, metric) pairs of all evaluations, in their order."""
    return list(
        dict.fromkeys(
            (task, metric)
            for found in evaluations
            for task, facts in found["tasks"].items()
            for metric in facts["scores"]
        )
    )


def _first_task(evaluations: Sequence[Mapping[str, Any]]) -> str | None:
    return next(iter(tasks_in_order(evaluations[-1]["tasks"])), None)


def _gate(manifest: Mapping[str, Any], name: str) -> float | None:
    return next((gate["figure"] for gate in manifest["gates"] if gate["name"] == name), None)


def _short(said: str) -> str:
    return said if len(said) <= _ANSWER_CHARACTERS else f"{said[: _ANSWER_CHARACTERS - 1]}…"
