"""Write the parts of a cache: the teacher reads the rows in batches that are always the same, so a
part has the same bytes whoever writes it, and when."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from common.errors import UserError
from common.files import file_in_the_making, write_json
from common.progress import progress_bar
from toolchain.compress.distill.cache.facts import (
    SPLITS,
    Facts,
    Part,
    Split,
    finished_part,
    part_name,
    planned,
)
from toolchain.compress.distill.cache.job import CacheJob
from toolchain.data.prepare.encode import IGNORED
from toolchain.train.batches import Collate, Rows
from toolchain.train.job import TRAIN_FILE, VALIDATION_FILE, Kind

FILES: dict[Split, str] = dict(zip(SPLITS, (TRAIN_FILE, VALIDATION_FILE), strict=True))


def places_of(row: dict[str, Any], kind: Kind) -> int:
    """How many places of a row are learned."""
    if kind == "classification":
        return int(row["labels"] != IGNORED)
    return sum(label != IGNORED for label in row["labels"][1:])


def write_parts(job: CacheJob, process: int = 0, processes: int = 1) -> None:
    """Write this process's parts that are not there yet. Raises `UserError` when the teacher does
    not load or the disk is full; finished parts stay."""
    facts = job.facts
    first, of = job.share * processes + process, job.shares * processes
    mine = [
        part
        for part in planned(facts)[first::of]
        if finished_part(job.folder, facts, *part[:2]) is None
    ]
    if not mine:
        return
    teacher, device = _teacher(job)
    rows = {split: _rows(job, split) for split in SPLITS if facts.splits[split].rows}
    packed = facts.packing and facts.kind == "causal"
    collate = Collate(facts.kind, job.pad_token_id, packed)

    def answers(batch_rows: list[dict[str, Any]]) -> Any:
        batch = {name: value.to(device) for name, value in collate(batch_rows).items()}
        return teacher.targets(batch).logits

    with progress_bar("teacher", unit="part", total=len(mine)) as bar:
        for split, number, begin, count in mine:
            own = [rows[split][i] for i in range(begin, begin + count)]
            _write_part(job.folder, facts, (split, number, begin), own, answers)
            bar.update(1)


def _rows(job: CacheJob, split: Split) -> Rows:
    return Rows(job.rows / FILES[split], job.facts.kind, job.pad_token_id)


def _teacher(job: CacheJob) -> tuple[Any, Any]:
    """The network in memory, and where it computes."""
    import torch

    from toolchain.compress.distill.pair import class_columns
    from toolchain.compress.distill.teacher import LiveTeacher
    from toolchain.train.network import load_frozen, quiet_libraries

    quiet_libraries()
    facts, device = job.facts, torch.device("cpu")
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    network = load_frozen(
        job.model,
        facts.kind,
        facts.quantization,
        bf16=facts.bf16,
        trust_remote_code=job.trust_remote_code,
    )
    if facts.quantization == "none":
        network.to(device)
    network.config.use_cache = False
    columns = class_columns(network.config.id2label, facts.labels) if facts.labels else None
    return LiveTeacher(network, facts.kind, columns), device


def _write_part(
    folder: Path,
    facts: Facts,
    place: tuple[Split, int, int],
    rows: list[dict[str, Any]],
    answers: Callable[[list[dict[str, Any]]], Any],
) -> None:
    """The part's file, then its record. Raises `UserError` when there is no room."""
    split, number, first = place
    path = folder / part_name(split, number)
    counts = np.array([places_of(row, facts.kind) for row in rows], "<u4")
    try:
        with file_in_the_making(path) as stream:
            digest = _write_records(stream, counts, _records(facts, rows, answers))
        part = Part(
            key=facts.key,
            split=split,
            number=number,
            first=first,
            rows=len(rows),
            places=int(counts.sum()),
            sha256=digest,
        )
        write_json(folder / f"{path.name}.json", part.model_dump(mode="json"))
    except OSError as error:
        raise UserError(
            f"the teacher cache cannot be written to {folder}: {error.strerror or error}",
            "free some space and run the same command again: finished parts are kept",
        ) from None


def _records(
    facts: Facts,
    rows: list[dict[str, Any]],
    answers: Callable[[list[dict[str, Any]]], Any],
) -> Iterator[np.ndarray[Any, Any]]:
    size = facts.batch_size
    for start in range(0, len(rows), size):
        logits = answers(rows[start : start + size])
        yield facts.record.encode(logits[:, : facts.vocab])


def _write_records(
    stream: BinaryIO, counts: np.ndarray[Any, Any], records: Iterator[np.ndarray[Any, Any]]
) -> str:
    digest = hashlib.sha256()
    for block in itertools.chain([counts], records):
        stream.write(block.tobytes())
        digest.update(block.tobytes())
    return digest.hexdigest()
