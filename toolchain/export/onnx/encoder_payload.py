"""An ONNX encoder in a bundle: the folder `model/`, and texts with the outputs they must give."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.data.text import labelled_rows
from toolchain.evaluate.task import choose_rows
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
        rows = [{"id": f"text-{n:02d}", "text": text} for n, text in enumerate(TEXTS)]
        return rows, ()
    chosen = choose_rows(labelled_rows(Path(config.task.path)), TASK_TEXTS, seed=0)
    return [
        {
            "id": f"task-{number:02d}",
            "text": row["text"],
            **({"text_pair": row["text_pair"]} if row.get("text_pair") is not None else {}),
            "reference": row["label"],
        }
        for number, row in enumerate(chosen)
    ], ()
