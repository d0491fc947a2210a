"""Kind `adapter`: a peft adapter for a classifier or a tagger, head included, on its base."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_json, read_object
from toolchain.checkpoint.safetensors_header import read_header
from toolchain.encoder_kinds.checkpoint import labels_of, open_checkpoint
from toolchain.encoders import CLASSIFICATION, TAGGING, OpenEncoder
from toolchain.model_kinds import adapter
from toolchain.models import OpenOptions

LABELS = "labels.json"
_WEIGHTS = "adapter_model.safetensors"
_TASKS = {"SEQ_CLS": CLASSIFICATION, "TOKEN_CLS": TAGGING}
_HEADS = ("classifier", "score", "out_proj", "classification_head")


def task_of(path: Path) -> str | None:
    """By the task type in the adapter's config; language models have another."""
    if not adapter.matches(path):
        return None
    return _TASKS.get(str(read_object(path / adapter.CONFIG).get("task_type")))


def open_path(path: Path, options: OpenOptions) -> OpenEncoder[Any]:
    """Load the base, give it a head, put the adapter on.

    Raises `UserError` when the base is missing, they do not fit, or the adapter has no head.
    """
    task = task_of(path)
    assert task is not None  # `open_encoder` asked
    base = adapter.base_folder(path, options)
    labels = _labels(path, base, _outputs(path))
    numbered = dict(enumerate(labels))
    opened = open_checkpoint(
        base,
        options,
        name=path.name,
        kind="adapter",
        task=task,
        labels=labels,
        new_head={
            "id2label": numbered,
            "label2id": {label: number for number, label in numbered.items()},
            "ignore_mismatched_sizes": True,
        },
        change=lambda network: adapter.put_on(network, path),
    )
    opened.facts = {**opened.facts, "base": base.name}
    return opened


def _outputs(path: Path) -> int:
    """How many labels the adapter's head tells apart: the rows of its last weight."""
    if not (path / _WEIGHTS).is_file():
        raise UserError(f"adapter {path} has no {_WEIGHTS}", "train it again, or fetch it")
    rows = [
        tensor.shape[0]
        for tensor in read_header(path / _WEIGHTS)
        if tensor.name.endswith(".weight")
        and len(tensor.shape) == 2
        and "lora_" not in tensor.name
        and any(part in _HEADS for part in tensor.name.split("."))
    ]
    if not rows:
        raise UserError(
            f"adapter {path} has no head of its own, so its answers have no meaning",
            "train it with the head among modules_to_save (peft does for task type SEQ_CLS)",
        )
    return min(rows)


def _labels(path: Path, base: Path, outputs: int) -> tuple[str, ...]:
    """The adapter's own list, else the base's where it has as many, else numbers."""
    if (path / LABELS).is_file():
        listed = read_json(path / LABELS)
        if isinstance(listed, list) and len(listed) == outputs:
            return tuple(map(str, listed))
        raise UserError(
            f"{path / LABELS} is no list of the head's {outputs} labels: {json.dumps(listed)[:60]}",
            "correct it: the labels in the order of the outputs",
        )
    config = read_object(base / "config.json")
    if "id2label" in config and len(config["id2label"]) == outputs:
        return labels_of(config, str(base))
    return tuple(map(str, range(outputs)))
