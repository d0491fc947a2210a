"""Rows of ids to tensors: padded on the right, packed examples kept apart, the same for one process
and many."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from toolchain.data.prepare.encode import IGNORED
from toolchain.train.job import Kind

BLANK = -1  # the index of a row that fills the last batch up; nothing is learned from it


class Rows:
    """An encoded split, memory-mapped, its rows numbered from `first`. Index `BLANK` is a row of
    one token without a label."""

    def __init__(self, path: Path, kind: Kind, pad_token_id: int, first: int = 0) -> None:
        from datasets import Dataset

        self._first = first

        self._data = Dataset.from_file(str(path))
        blank = {"input_ids": [pad_token_id]}
        self._blank: dict[str, Any] = (
            {**blank, "labels": [IGNORED], "lengths": [1]}
            if kind == "causal"
            else {**blank, "labels": IGNORED, "token_type_ids": None}
        )

    def __len__(self) -> int:
        return len(self._data)

    def __getitem__(self, index: int) -> dict[str, Any]:
        row: dict[str, Any] = self._blank if index == BLANK else self._data[index]
        return {**row, "row": index if index == BLANK else self._first + index}


class EpochOrder:
    """A sampler: every row once, in an order that follows from seed and epoch alone, so that a run
    that goes on meets the rows it would have met. Blank rows fill the last of `of` rows up."""

    def __init__(self, rows: int, seed: int, of: int) -> None:
        self._rows = rows
        self._seed = seed
        self._of = of
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Called by Trainer before an epoch."""
        self.epoch = epoch

    def __len__(self) -> int:
        return math.ceil(self._rows / self._of) * self._of

    def __iter__(self) -> Iterator[int]:
        import torch

        generator = torch.Generator().manual_seed((self._seed << 20) + self.epoch)
        yield from torch.randperm(self._rows, generator=generator).tolist()
        yield from [BLANK] * (len(self) - self._rows)


@dataclass(frozen=True)
class Collate:
    """Rows to a batch. Packed rows get positions that restart and a 4-D mask of `dtype`;
    `numbered` adds `rows`, their numbers in the split."""

    kind: Kind
    pad_token_id: int
    packed: bool
    dtype: str = "float32"
    numbered: bool = False

    def __call__(self, rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        import torch

        width = max(len(row["input_ids"]) for row in rows)
        batch = {"input_ids": _padded([row["input_ids"] for row in rows], width, self.pad_token_id)}
        if self.numbered:
            batch["rows"] = torch.tensor([row["row"] for row in rows])
        if self.kind == "classification":
            if any(row["token_type_ids"] for row in rows):
                types = [row["token_type_ids"] or [0] for row in rows]
                batch["token_type_ids"] = _padded(types, width, 0)
            batch["labels"] = torch.tensor([row["labels"] for row in rows])
        else:
            batch["labels"] = _padded([row["labels"] for row in rows], width, IGNORED)
        if self.packed:
            positions, mask = _apart([row["lengths"] for row in rows], width, self.dtype)
            return {**batch, "position_ids": positions, "attention_mask": mask}
        ones = [[1] * len(row["input_ids"]) for row in rows]
        return {**batch, "attention_mask": _padded(ones, width, 0)}


def _padded(rows: Sequence[Sequence[int]], width: int, value: int) -> Any:
    import torch

    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows])


def _apart(lengths: Sequence[Sequence[int]], width: int, dtype: str) -> tuple[Any, Any]:
    """Positions [rows, width] and the mask [rows, 1, width, width] to add to scores."""
    import torch

    from toolchain.data.prepare.encode import Packed, attention_mask

    positions, masks = [], []
    for row in lengths:
        # The padding is one more example: it sees itself, so that no softmax is over nothing.
        own = [*row, width - sum(row)]
        numbers = [number for number, length in enumerate(own) for _ in range(length)]
        positions.append([place for length in own for place in range(length)])
        masks.append(attention_mask(Packed([], [], [], numbers, []), dtype))
    return torch.tensor(positions), torch.cat(masks)
