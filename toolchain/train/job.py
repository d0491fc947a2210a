"""A training run as a file: all that a worker process needs to know, on this machine or another."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field

from common.files import read_json, write_json
from common.strict import Strict, parse
from toolchain.compress.distill.settings import Distill
from toolchain.compress.exact.settings import ExactPlan
from toolchain.train.settings import Finetune

JOB_FILE = "job.json"
TRAIN_FILE, VALIDATION_FILE = "train.arrow", "validation.arrow"
CHECKPOINTS = "checkpoints"

Kind = Literal["causal", "classification"]


class Distillation(Strict):
    """What a run needs beside its rows when its loss comes from a teacher: the checkpoint, or the
    folder of its `cache`. With `exact` it computes with the weights of the file, whose scales are
    those of the blocks of the checkpoint `start` where that is given."""

    settings: Distill
    teacher: Path | None
    cache: Path | None = None
    exact: ExactPlan | None = None
    start: Path | None = None


class TrainJob(Strict):
    """One run. `key` names its inputs: checkpoints of another key are not gone on from.

    `threads` of each process are part of it because sums in another order round otherwise.
    `folder` holds the encoded rows and the checkpoints; `rows` counts the (packed) rows of train,
    `tokens` their tokens. `labels` are the classes in the order of the head. With `distillation`
    the loss comes from a teacher.
    """

    key: str
    kind: Kind
    model: Path
    folder: Path
    logs: Path | None
    settings: Finetune
    saves_per_epoch: int = Field(ge=1)
    max_tokens: int
    rows: int
    tokens: int
    validation_rows: int
    labels: tuple[str, ...] = ()
    pad_token_id: int
    threads: int = Field(ge=1)
    distillation: Distillation | None = None
    trust_remote_code: bool = False

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints lie."""
        return self.folder / CHECKPOINTS

    def write(self) -> Path:
        """Write the job's file and return its path."""
        path = self.folder / JOB_FILE
        write_json(path, self.model_dump(mode="json"))
        return path


def read_job(path: Path) -> TrainJob:
    """The job of a file. Raises `UserError` when it is none."""
    return parse(TrainJob, read_json(path), str(path))
