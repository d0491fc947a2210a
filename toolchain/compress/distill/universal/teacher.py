"""A teacher that reads the rows in its own tokens."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from toolchain.compress.distill.losses import Dense, Unaligned
from toolchain.compress.distill.universal.rows import BESIDE
from toolchain.train.job import TRAIN_FILE, VALIDATION_FILE, TrainJob


class UniversalTeacher:
    """A `Teacher` over rows that `write_rows` left in the job's folder. `columns` are a
    classifier's classes in the student's order."""

    def __init__(self, job: TrainJob, network: Any, columns: Sequence[int] | None) -> None:
        from datasets import concatenate_datasets

        self._network, self._columns = network, columns
        files = (TRAIN_FILE, VALIDATION_FILE)
        # Validation rows are numbered after the training rows.
        self._rows = concatenate_datasets([_split(job.folder / f"{BESIDE}{f}") for f in files])

    @torch.no_grad()  # type: ignore[untyped-decorator]
    def targets(self, batch: dict[str, Any]) -> Dense | Unaligned:
        """Its logits at the learned places of the batch, where it has them."""
        device = batch["labels"].device
        rows = [self._rows[number] for number in batch["rows"].tolist() if number >= 0]
        if not rows:  # rows that fill the last batch up
            return Unaligned(torch.zeros(0, 1, device=device), torch.zeros(0, dtype=torch.long))
        width = max(len(row["input_ids"]) for row in rows)
        ids = torch.tensor([_padded(row["input_ids"], width, 0) for row in rows], device=device)
        ones = [_padded([1] * len(row["input_ids"]), width, 0) for row in rows]
        mask = torch.tensor(ones, device=device)
        logits = self._network(input_ids=ids, attention_mask=mask).logits
        if self._columns is not None:
            return Dense(logits[:, list(self._columns)])
        return _picked(logits, [row["index"] for row in rows])


def _split(path: Path) -> Any:
    from datasets import Dataset

    return Dataset.from_file(str(path))


def _padded(values: list[int], width: int, filler: int) -> list[int]:
    return [*values, *[filler] * (width - len(values))]


def _picked(logits: Any, indices: Sequence[Sequence[int]]) -> Unaligned:
    """The logits [M, V'] that are compared, and which of them each place has."""
    own = torch.tensor([position for index in indices for position in index])
    rows = torch.tensor([number for number, index in enumerate(indices) for _ in index])
    there = own >= 0
    order = torch.where(there, there.cumsum(0) - 1, -1).to(logits.device)
    return Unaligned(logits[rows[there], own[there]], order)
