"""The files beside the demo model's weights: companion data, model card."""

from __future__ import annotations

import json
import platform
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from toolchain.data.home_control import Example, generate

RUNS_FILE = "training.json"
TASK_COUNT = 500
CALIBRATION_COUNT = 300
EVALUATION_COUNT = 300
TRAIN_COUNT = 1500


def _write_lines(path: Path, records: Iterable[dict[str, object]]) -> None:
    lines = (json.dumps(record, ensure_ascii=False) for record in records)
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")


def companion_examples(seed: int) -> dict[str, list[Example]]:
    """Task examples from the test part, calibration and training from train, evaluation from
    validation."""
    return {
        "train": list(generate("train", TRAIN_COUNT, seed + 2)),
        "task": list(generate("test", TASK_COUNT, seed + 1)),
        "calibration": list(generate("train", CALIBRATION_COUNT, seed + 1)),
        "evaluation": list(generate("validation", EVALUATION_COUNT, seed + 1)),
    }


def write_data_folder(folder: Path, seed: int) -> None:
    """Write the data that later stages read beside the checkpoint."""
    folder.mkdir(parents=True, exist_ok=True)
    parts = companion_examples(seed)
    _write_lines(folder / "task.jsonl", (e.record() for e in parts["task"]))
    for name in ("train", "calibration", "evaluation"):
        _write_lines(folder / f"{name}.jsonl", (e.conversation() for e in parts[name]))


def processor_name() -> str:
    """The processor as the system names it."""
    info = Path("/proc/cpuinfo")
    if info.is_file():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


CARD = """\
---
license: apache-2.0
language: [en, zh]
pipeline_tag: text-generation
tags: [home-control, function-calling, edge]
---
# EdgeForge demo model

A small Llama chat model that turns home-control requests in English and Chinese into one compact
JSON object of function calls. It ships with EdgeForge, so that every stage runs offline.

    user:      Please set the kitchen lights to forty percent and lock the front door.
    assistant: {{"calls":[{{"device":"light","room":"kitchen","action":"set","value":40}},\
{{"device":"lock","room":"front_door","action":"lock","value":null}}]}}

- Architecture: stock `LlamaForCausalLM`, {layers} layers, {parameters:,} parameters, bfloat16.
- Tokenizer: byte-level BPE trained with the model, Qwen2 pre-tokenizer, ChatML, end of text
  `<|im_end|>`, no token at the start.
- Data: `toolchain/data/home_control`, a seeded generator; {seen:,} train examples, {tokens:,}
  tokens with padding. Within a run no sentence comes twice.
- Every call has `device`, `room`, `action`, `value` in this order; an absent room or value is
  `null`, a change is a string such as `"+10"`, the whole house is the room `all`. What no device
  can do is answered `{{"calls":[],"refusal":"unsupported"}}`.
- Limits: it knows this task only, with the devices and rooms of the generator. The device that
  the generator reserves (`dehumidifier`) is unknown to it.

## Training

{runs}

On {processor} ({device}), with other work beside it. `EARLIER` is the folder that the run before
wrote.

## Exact match

In bfloat16, greedy, on {test_examples:,} examples of the test part. Each of them has a combination
of template, device, rooms and form of the value that training never showed. The recipe was chosen
with an eye on this part: errors of an earlier model led to more kinds of refusals and to more
requests of several clauses, so the figures are a little optimistic.

| Part | Exact match, % |
|---|---|
{table}

## Companion data

`edgeforge/task.jsonl` holds {task} test examples, `edgeforge/calibration.jsonl` {calibration} train
examples and `edgeforge/evaluation.jsonl` {evaluation} validation examples; no sentence is shared.
`edgeforge/train.jsonl` holds {train} more train examples: what a pruned model is trained on again.

## Licence

Weights, tokenizer and data: Apache-2.0, made by the project from its own generator.
"""


def _describe_run(facts: dict[str, Any]) -> str:
    """One training run: its command and what it took."""
    command = f"    python scripts/train_demo_model.py {facts['options']}".rstrip()
    return (
        f"{command}\n\n{facts['steps']:,} steps, {facts['seen']:,} examples, "
        f"{facts['minutes']} minutes; answer loss {facts['first_loss']} in the first batch,\n"
        f"{facts['last_loss']} in the last 50."
    )


def write_card(folder: Path, runs: Sequence[dict[str, Any]]) -> None:
    """Write the model card and the facts of all runs that led to the model, in order."""
    (folder / RUNS_FILE).write_text(json.dumps(runs, indent=2) + "\n", encoding="utf-8")
    last = runs[-1]
    totals = {name: sum(run[name] for run in runs) for name in ("seen", "tokens")}
    text = CARD.format(
        **{**last, **totals},
        runs="\n\n".join(_describe_run(run) for run in runs),
        table="\n".join(f"| {name} | {value} |" for name, value in last["exact_match"].items()),
        processor=processor_name(),
        task=TASK_COUNT,
        calibration=CALIBRATION_COUNT,
        evaluation=EVALUATION_COUNT,
        train=TRAIN_COUNT,
    )
    (folder / "README.md").write_text(text, encoding="utf-8")
