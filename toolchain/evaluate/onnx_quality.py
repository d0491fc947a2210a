"""Stage `onnx-quality`: what an INT8 ONNX decoder lost against the float32 one.

The figures are those of stage `quality`, on the logits that stage `onnx-parity` left: perplexity,
KLD (mean, 99th percentile, largest), top-1 agreement, and the score of the model's task.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from common.errors import UserError
from toolchain.artifact import Artifact
from toolchain.evaluate import quality
from toolchain.evaluate.generate import answer_task
from toolchain.evaluate.logits import summarize
from toolchain.evaluate.reference import load_reference
from toolchain.model_kinds import onnx as onnx_kind
from toolchain.models import OpenModel, OpenOptions

NAME = "onnx-quality"
VERSION = 1
TOOLS = ("onnxruntime", "transformers")
FORMAT, RESULT = quality.FORMAT, quality.RESULT
_TASK_CONTEXT = 2048


class Config(quality.Config):
    """`reference` is the artifact of stage `onnx-parity`; the rest as for stage `quality`."""


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Measure the file in `source`; leaves `evaluation.json` and, with a task, `answers.jsonl`.

    All positions count, also where the file gives the last one alone by default.
    """
    start = time.perf_counter()
    reference = load_reference(config.reference.path)
    facts = dict(reference.facts)
    context_tokens = max(_TASK_CONTEXT, *map(len, reference.tokens))
    with onnx_kind.open_path(source.path, OpenOptions(context_tokens=context_tokens)) as model:
        if model.runtime.vocab_size != facts["vocab_size"]:
            raise UserError(
                f"the file has {model.runtime.vocab_size} tokens, "
                f"the reference {facts['vocab_size']}",
                "compare with the parity proof of the file that this one was quantized from",
            )
        comparison = summarize(list(reference.compare(model.runtime.logits)))
        task_start = time.perf_counter()
        task = _task(model, config, out_dir) if config.task else None
        size_bytes = model.facts["size_bytes"]
    times = {"text_sec": task_start - start, "task_sec": time.perf_counter() - task_start}
    measurements: dict[str, Any] = {
        "file": facts["file"],
        "size_bytes": size_bytes,
        "kv_cache_type": facts["kv_cache_type"],
        "evaluation": facts["evaluation"],
        **comparison.as_json(),
        "task": task,
    }
    return quality.leave(source, config, out_dir, measurements, times, stage=NAME, tools=TOOLS)


def _task(model: OpenModel, config: Config, out_dir: Path) -> dict[str, Any]:
    if not model.chat_template:
        raise UserError(
            "the model has no chat template, so the task's prompts cannot be rendered",
            "give the checkpoint a chat template, or leave the task out",
        )
    examples, available = quality.chosen_examples(config)
    answers = answer_task(model, examples)
    quality.write_answers(answers, out_dir)
    return quality.task_figures(answers, available, config.seed)
