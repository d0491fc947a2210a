"""Small distillations for tests: the stage in a workspace."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from train_runs import WORDS

from toolchain.artifact import Artifact
from toolchain.checkpoint.intake import open_checkpoint
from toolchain.compress.distill import stage
from toolchain.compress.distill.settings import Distill
from toolchain.pipeline import Workspace, run_stage
from toolchain.stage import Input
from toolchain.train.finetune import data_input

TEXTS = tuple(
    " ".join(WORDS[(n * step) % len(WORDS)] for n in range(1, 9)) for step in range(1, 17)
)


def distil(student: Path, teacher: Path, data: Path, root: Path, **settings: Any) -> Artifact:
    """The stage's artifact in the workspace `root`."""
    source, _ = open_checkpoint(student, None)
    config = config_of(teacher, data, **settings)
    return run_stage(stage, source, config, Workspace(root), lambda _line: None)


def config_of(teacher: Path, data: Path, **settings: Any) -> stage.Config:
    """Little steps on few rows."""
    small = {"batch_size": 4, "epochs": 1, "learning_rate": 3e-3, **settings}
    taught_by, _ = open_checkpoint(teacher, None)
    return stage.Config(
        data=data_input(data), teacher=Input.of_artifact(taught_by), settings=Distill(**small)
    )
