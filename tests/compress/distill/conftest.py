"""A teacher that has learned its rows, students, and data."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from distillations import TEXTS
from tiny_models import tiny_llama
from train_runs import write_data

from toolchain.train.job import TrainJob


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices of this size gain nothing from more, and on a busy machine threads wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [{"text": text} for text in TEXTS]
    return write_data(tmp_path_factory.mktemp("texts") / "d", train=rows[:12], validation=rows[12:])


@pytest.fixture(scope="session")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("teachers") / "teacher", hidden=64, ffn=96, seed=1)


@pytest.fixture(scope="session")
def student(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("students") / "student"
    return tiny_llama(folder, hidden=32, ffn=48, layers=1, heads=2, kv_heads=1, seed=2)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's own code in this process: its start takes longer than these trainings."""

    def run(_job_file: Path, job: TrainJob, _accelerate: Path | None) -> None:
        from toolchain.train.worker import train

        train(job)

    monkeypatch.setattr("toolchain.train.finetune.run_workers", run)
