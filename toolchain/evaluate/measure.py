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
from toolchain.evaluate.compare import Settings, measure_open
from toolchain.evaluate.generate import answer_rows
from toolchain.models import OpenOptions, open_model
from toolchain.stage import Input, StageConfig

NAME = "evaluate"
VERSION = 1
TOOLS = ("peft", "torch", "transformers")
FORMAT = "evaluation"
RESULT, ANSWERS = "evaluation.json", "answers.jsonl"
_SPARE_CONTEXT_TOKENS = 64


class Task(Strict):
    """A test set: `.jsonl` rows of messages and answer."""

    name: str
    rows: Input


class Config(StageConfig):
    """`base` is the checkpoint that an adapter belongs to. At most `task_examples` prompts of each
    task and `max_tokens` tokens of the text are taken, chosen by `seed`."""

    base: Input | None = None
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
    """Measure; leaves `evaluation.json` and, with tasks, `answers.jsonl`."""
    start = time.perf_counter()
    options = OpenOptions(
        context_tokens=inspect((config.base or Input.of_artifact(source)).path).context_tokens
        or config.context_tokens + _SPARE_CONTEXT_TOKENS,
        trust_remote_code=config.trust_remote_code,
        base=config.base.path if config.base else None,
    )
    with open_model(str(source.path), options) as model:
        text = measure_open(model, _settings(config, None))
        tasks = {task.name: measure_open(model, _settings(config, task)) for task in config.tasks}
    rows = [
        {"task": name, **row}
        for name, found in tasks.items()
        for row in answer_rows(found.result.answers)
    ]
    if rows:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        write_text(out_dir / ANSWERS, "".join(lines))
    figures: dict[str, Any] = {
        "text": {**(text.text or {}), "name": config.text_name or config.text.path.name},
        "perplexity": text.result.perplexity,
        "perplexity_stderr": text.result.perplexity_stderr,
        "tasks": {
            name: {"examples": len(found.result.answers), "scores": dict(found.result.scores)}
            for name, found in tasks.items()
        },
    }
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
            "measured": source.stage,
            "wall_sec": round(time.perf_counter() - start, 3),
        },
    )


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
