"""Stage `quality`: what a GGUF lost against the unquantized one, on text that nothing was tuned on.

Perplexity, KLD (mean, 99th percentile, largest) and top-1 agreement against the logits that stage
`parity` left, with the same KV-cache type; and the exact-match score of the model's task where it
has one. The score kept is this file's score over that of a `quality` run of the unquantized file.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field

from common.errors import UserError
from common.files import write_json, write_text
from runtimes.llama import LlamaModel
from toolchain import artifact
from toolchain.artifact import Artifact
from toolchain.data.text import TaskExample, task_examples
from toolchain.evaluate.logits import summarize
from toolchain.evaluate.reference import load_reference
from toolchain.evaluate.task import TaskAnswer, answer_examples, choose_examples
from toolchain.stage import Input, StageConfig

NAME = "quality"
VERSION = 1
TOOLS = ("llama-cpp-python",)
FORMAT = "quality"
RESULT, ANSWERS = "evaluation.json", "answers.jsonl"


class Config(StageConfig):
    """`reference` is the artifact of stage `parity`; `task` a `.jsonl` of messages and answer, of
    which at most `task_examples` are asked, chosen by `seed`; `adapter_file` (GGUF) is on top."""

    reference: Input
    task: Input | None = None
    task_examples: int = Field(200, ge=1)
    seed: int = 0
    adapter_file: Input | None = None


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Measure the GGUF in `source`; leaves `evaluation.json` and, with a task, `answers.jsonl`."""
    start = time.perf_counter()
    file = source.only(".gguf")
    reference = load_reference(config.reference.path)
    facts = dict(reference.facts)
    with LlamaModel(
        file,
        context_tokens=max(map(len, reference.tokens)),
        kv_cache_type=facts["kv_cache_type"],
        adapter=config.adapter_file.path if config.adapter_file else None,
    ) as model:
        if model.vocab_size != facts["vocab_size"]:
            raise UserError(
                f"{file.name} has {model.vocab_size} tokens, the reference {facts['vocab_size']}",
                "compare with the parity proof of the file that this one was quantized from",
            )
        comparison = summarize(list(reference.compare(model.logits)))
    task_start = time.perf_counter()
    task = _task(file, config, facts["kv_cache_type"], out_dir) if config.task else None
    times = {"text_sec": task_start - start, "task_sec": time.perf_counter() - task_start}
    measurements: dict[str, Any] = {
        "file": file.name,
        "size_bytes": file.stat().st_size,
        "kv_cache_type": facts["kv_cache_type"],
        "evaluation": facts["evaluation"],
        **comparison.as_json(),
        "task": task,
    }
    return leave(source, config, out_dir, measurements, times, stage=NAME, tools=TOOLS)


def leave(
    source: Artifact,
    config: Config,
    out_dir: Path,
    measurements: Mapping[str, Any],
    times: Mapping[str, float],
    *,
    stage: str,
    tools: Sequence[str],
) -> Artifact:
    """Write the figures as the artifact of a quality stage. Times stay out of the file, so that the
    same inputs give the same bytes."""
    write_json(out_dir / RESULT, dict(measurements))
    parents = [source.digest, config.reference.digest]
    return artifact.describe(
        out_dir,
        format=FORMAT,
        stage=stage,
        config=config.model_dump(mode="json"),
        parents=parents + ([config.task.digest] if config.task else []),
        versions={name: version(name) for name in tools},
        measurements={**measurements, **times},
    )


def _task(file: Path, config: Config, kv_cache_type: str, out_dir: Path) -> dict[str, Any]:
    examples, available = chosen_examples(config)
    adapter = config.adapter_file.path if config.adapter_file else None
    answers = answer_examples(file, examples, kv_cache_type=kv_cache_type, adapter=adapter)
    write_answers(answers, out_dir)
    return task_figures(answers, available, config.seed)


def chosen_examples(config: Config) -> tuple[list[TaskExample], int]:
    """The examples to ask, and how many there are."""
    assert config.task is not None
    available = task_examples(config.task.path.parent, config.task.path) or []
    return choose_examples(available, config.task_examples, config.seed), len(available)


def task_figures(answers: list[TaskAnswer], available: int, seed: int) -> dict[str, Any]:
    """The task's score, as measurements have it."""
    right = sum(answer.right for answer in answers)
    return {
        "metric": "exact match",
        "score": right / len(answers),
        "right": right,
        "examples": len(answers),
        "available_examples": available,
        "stopped": sum(answer.stopped for answer in answers),
        "seed": seed,
    }


def write_answers(answers: list[TaskAnswer], out_dir: Path) -> None:
    """Every answer as a line of `answers.jsonl`."""
    lines = [json.dumps(answer.as_json(), ensure_ascii=False) for answer in answers]
    write_text(out_dir / ANSWERS, "\n".join(lines) + "\n")
