"""Stage `evaluate`: what a checkpoint or an adapter can do at this point of a recipe.

The same text and the same tasks each time, so that the report can put before and after side by
side. It changes nothing: the next stage takes what came before it.
"""

from __future__ import annotations

import json
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from common.files import write_json, write_text
from common.strict import Strict
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.data.text import read_documents
from toolchain.evaluate.compare import Settings, measure_open
from toolchain.evaluate.continuations import continuations
from toolchain.evaluate.generate import answer_rows
from toolchain.models import OpenOptions, open_model
from toolchain.stage import Input, StageConfig

NAME = "evaluate"
VERSION = 3
TOOLS = ("peft", "torch", "transformers")
FORMAT = "evaluation"
RESULT, ANSWERS = "evaluation.json", "answers.jsonl"
_SPARE_CONTEXT_TOKENS = 64


class Task(Strict):
    """A test set: `.jsonl` rows of messages and answer."""

    name: str
    rows: Input


class Config(StageConfig):
    """`base` is the checkpoint that an adapter belongs to; `labels` says that the model is a
    classifier and the tasks rows of text and label. At most `task_examples` prompts of each
    task and `max_tokens` tokens of the text are taken, chosen by `seed`."""

    base: Input | None = None
    labels: bool = False
    text: Input
    text_name: str = ""
    tasks: tuple[Task, ...] = ()
    metrics: tuple[str, ...] = ("exact_match", "f1")
    max_tokens: int = Field(default=4096, ge=256)
    context_tokens: int = Field(default=512, ge=32)
    task_examples: int = Field(default=200, ge=1)
    seed: int = 0
    trust_remote_code: bool = False


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Measure; leaves `evaluation.json` and, where the model answered, `answers.jsonl`."""
    start = time.perf_counter()
    figures, rows = (_classified if config.labels else _answered)(source, config)
    if rows:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        write_text(out_dir / ANSWERS, "".join(lines))
    write_json(out_dir / RESULT, figures)
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.text.digest, *(task.rows.digest for task in config.tasks)],
        versions={tool: version(tool) for tool in TOOLS},
        measurements={
            **figures,
            **_size(config.base.path if config.base else source.path),
            "measured": source.stage,
            "wall_sec": round(time.perf_counter() - start, 3),
        },
    )


def _size(checkpoint: Path) -> dict[str, int]:
    """What the checkpoint takes; an adapter's base, for it is no smaller."""
    info = inspect(checkpoint)
    return {"parameters": info.parameters, "weight_bytes": info.weight_bytes}


Found = tuple[dict[str, Any], list[dict[str, Any]]]


def _answered(source: Artifact, config: Config) -> Found:
    """A decoder's perplexity on the text and its answers to the tasks; without a task how it goes
    on with the text."""
    options = OpenOptions(
        context_tokens=inspect((config.base or Input.of_artifact(source)).path).context_tokens
        or config.context_tokens + _SPARE_CONTEXT_TOKENS,
        trust_remote_code=config.trust_remote_code,
        base=config.base.path if config.base else None,
    )
    with open_model(str(source.path), options) as model:
        text = measure_open(model, _settings(config, None))
        tasks = {task.name: measure_open(model, _settings(config, task)) for task in config.tasks}
        samples = [] if tasks else continuations(model, read_documents(config.text.path))
    rows = samples + [
        {"task": name, **row}
        for name, found in tasks.items()
        for row in answer_rows(found.result.answers)
    ]
    figures: dict[str, Any] = {
        "text": {
            **(text.text or {}),
            "name": config.text_name or config.text.path.name,
            "vocab_size": text.result.model["vocab_size"],
        },
        "perplexity": text.result.perplexity,
        "perplexity_stderr": text.result.perplexity_stderr,
        "tasks": {
            name: {"examples": len(found.result.answers), "scores": dict(found.result.scores)}
            for name, found in tasks.items()
        },
    }
    return figures, rows


def _classified(source: Artifact, config: Config) -> Found:
    """A classifier's accuracy and macro F1 on the tasks."""
    from toolchain.encoders import open_classifier
    from toolchain.evaluate import classify

    options = OpenOptions(
        trust_remote_code=config.trust_remote_code, base=config.base.path if config.base else None
    )
    tasks: dict[str, Any] = {}
    rows: list[dict[str, Any]] = []
    wanted = classify.Settings(examples=None, seed=config.seed)
    with open_classifier(str(source.path), options) as model:
        for task in config.tasks:
            data = classify.read_labelled(task.rows.path, wanted)
            found = classify.classify_texts(model, data)
            scores = found.scores
            tasks[task.name] = {
                "examples": len(data.texts),
                "scores": {"accuracy": scores.accuracy, "macro_f1": scores.macro_f1},
            }
            guesses = found.logits.argmax(-1)
            for text, right, guess in zip(data.texts, found.right, guesses, strict=True):
                answer, reference = found.labels[int(guess)], found.labels[right]
                rows.append(
                    {
                        "task": task.name,
                        "prompt": text if isinstance(text, str) else " / ".join(text),
                        "reference": reference,
                        "answer": answer,
                        "right": answer == reference,
                    }
                )
    return {"text": None, "perplexity": None, "perplexity_stderr": None, "tasks": tasks}, rows


def _settings(config: Config, task: Task | None) -> Settings:
    """The text alone, or one task alone."""
    return Settings(
        text=config.text.path,
        task=task.rows.path if task else None,
        with_text=task is None,
        with_task=task is not None,
        metrics=config.metrics,
        examples=config.task_examples,
        text_tokens=config.max_tokens,
        chunk_tokens=config.context_tokens,
        seed=config.seed,
    )
