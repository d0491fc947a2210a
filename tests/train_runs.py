"""Small trainings for tests: rows, and the stage in a workspace."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolchain.artifact import Artifact
from toolchain.checkpoint.intake import open_checkpoint
from toolchain.pipeline import Workspace, run_stage
from toolchain.train import finetune
from toolchain.train.settings import Finetune

WORDS = ("lamp", "kitchen", "fox", "dog", "weights", "bits", "空调", "café")


def chat_rows(count: int) -> list[dict[str, Any]]:
    """Conversations of different lengths."""
    return [
        {
            "messages": [
                {"role": "user", "content": " ".join(WORDS[: 1 + n % len(WORDS)]) + f" {n}"},
                {"role": "assistant", "content": f"Done {WORDS[n % len(WORDS)]} {n}."},
            ]
        }
        for n in range(count)
    ]


def class_rows(count: int, labels: tuple[str, ...] = ("cold", "warm")) -> list[dict[str, Any]]:
    """Texts whose first word decides their label."""
    return [
        {"text": f"{WORDS[n % 2]} {WORDS[n % 3 + 2]}", "label": labels[n % 2]} for n in range(count)
    ]


def write_data(folder: Path, **splits: list[dict[str, Any]]) -> Path:
    """A prepared folder of these splits."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in splits.items():
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def config_of(data: Path, **settings: Any) -> finetune.Config:
    """Little steps on few rows."""
    small = {"batch_size": 4, "epochs": 1, "learning_rate": 1e-3, **settings}
    return finetune.Config(data=finetune.data_input(data), settings=Finetune(**small))


def tune(base: Path, data: Path, root: Path, **settings: Any) -> Artifact:
    """The stage's artifact in the workspace `root`."""
    source, _ = open_checkpoint(base, None)
    return run_stage(finetune, source, config_of(data, **settings), Workspace(root), _quiet)


def log_of(made: Artifact) -> list[dict[str, float]]:
    """The training log."""
    return [json.loads(line) for line in made.file("training_log.jsonl").read_text().splitlines()]


def _quiet(_line: str) -> None:
    return None
