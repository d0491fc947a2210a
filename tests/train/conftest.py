"""A base, an encoder and data that the trainings of this folder share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_models import tiny_bert, tiny_llama
from train_runs import chat_rows, write_data

from toolchain.train.job import TrainJob


@pytest.fixture(scope="package", autouse=True)
def one_thread() -> Iterator[None]:
    """Matrices of this size gain nothing from more, and on a busy machine threads wait."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("bases") / "base", hidden=64, ffn=96)


@pytest.fixture(scope="session")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("bases") / "encoder", task="embedding")


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = chat_rows(20)
    folder = tmp_path_factory.mktemp("data") / "chats"
    return write_data(folder, train=rows[:14], validation=rows[14:17], test=rows[17:])


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """The worker's own code in this process: its start takes longer than these trainings."""

    def run(_job_file: Path, job: TrainJob, _accelerate: Path | None) -> None:
        from toolchain.train.worker import train

        train(job)

    monkeypatch.setattr("toolchain.train.finetune.run_workers", run)
