"""An ONNX encoder in a bundle: the folder `model/`, and texts with the outputs they must give."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import read_object
from toolchain.checkpoint.inspect import CONFIG
from toolchain.evaluate.classify import label_ids
from toolchain.export.onnx.encoder_texts import task_rows
from toolchain.export.onnx.payload import RUNTIME, describe, place

if TYPE_CHECKING:
    from toolchain.export.bundle import Config

KIND = "encoder"
TASK_TEXTS = 50
TEXTS = (
    "A warm and funny film that I would gladly see again.",
    "The plot makes no sense and the jokes fall flat.",
    "The train to the airport leaves at half past nine.",
    "Add two eggs, a cup of flour and a pinch of salt.",
    "这部电影温暖又有趣。",
    "明天下午三点开会，请准时参加。",
)
__all__ = ["KIND", "RUNTIME", "describe", "place", "prompts"]


def prompts(config: Config) -> tuple[list[dict[str, Any]], Sequence[str]]:
    """Rows of `prompts.jsonl`: texts of the task with their true labels, else some plain ones."""
    if config.task is None:
        return [{"id": f"text-{n:02d}", "text": text} for n, text in enumerate(TEXTS)], ()
    rows = task_rows(config.task.path, config.checkpoint.path, TASK_TEXTS)
    names = _names(rows, config.checkpoint.path)
    return [
        {"id": f"task-{number:02d}", **_texts(row), "reference": name}
        for number, (row, name) in enumerate(zip(rows, names, strict=True))
    ], ()


def _texts(row: Mapping[str, Any]) -> dict[str, str]:
    if "tokens" in row:
        return {"text": " ".join(row["tokens"])}
    return {name: row[name] for name in ("text", "text_pair") if name in row}


def _names(rows: Sequence[Mapping[str, Any]], checkpoint: Path) -> list[str | None]:
    """The model's own names of the rows' labels, which may be numbers; None for a model that gives
    no single label of several for a text."""
    from toolchain.encoder_kinds.checkpoint import labels_of

    if not all("label" in row for row in rows):
        return [None] * len(rows)
    own = labels_of(read_object(checkpoint / CONFIG), str(checkpoint))
    return [
        own[number] for number in label_ids([row["label"] for row in rows], own, checkpoint.name)
    ]
