"""A complete cache, memory-mapped and read by row.

    store = open_store(folder)
    stored = store.read([3, 17, -1])        # the records of these rows' places, one after another

Training rows are numbered from 0 and validation rows after them; -1 is a row without places.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from common.errors import UserError
from common.files import read_json, sha256_file
from common.strict import parse
from toolchain.compress.distill.cache.facts import (
    COUNT_BYTES,
    MANIFEST,
    Facts,
    Manifest,
    Part,
    finished_parts,
    planned,
    read_facts,
)

_AGAIN = "run the teacher-cache command that wrote it again: it writes what is missing or damaged"


@dataclass(frozen=True)
class Store:
    """`records` of each part, and for each row its part, and its first and last place there."""

    facts: Facts
    records: tuple[np.ndarray[Any, Any], ...]
    part_of: np.ndarray[Any, Any]
    begin: np.ndarray[Any, Any]
    end: np.ndarray[Any, Any]

    def read(self, rows: Sequence[int]) -> np.ndarray[Any, Any]:
        """Records uint8 [places of these rows, bytes of a record]."""
        found = [
            self.records[self.part_of[row]][self.begin[row] : self.end[row]]
            for row in rows
            if row >= 0
        ]
        if not found:
            return np.empty((0, self.facts.record.bytes), np.uint8)
        return np.concatenate(found)


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a complete cache, its parts checked by size. Raises `UserError` when there is
    none, or a part is missing or cut."""
    if not (folder / MANIFEST).is_file():
        facts = read_facts(folder) if folder.is_dir() else None
        if facts is None:
            raise UserError(
                f"{folder} is no teacher cache",
                "write one: edgeforge teacher-cache --model TEACHER --data DIR --out FOLDER",
            )
        there, wanted = len(finished_parts(folder, facts)), len(planned(facts))
        raise UserError(
            f"the teacher cache {folder} is not complete: {there} of {wanted} parts",
            "run its command again, or join what other machines wrote: --join FOLDERS",
        )
    found = parse(Manifest, read_json(folder / MANIFEST), str(folder / MANIFEST))
    if any(part.key != found.facts.key for part in found.parts):
        raise UserError(f"{folder / MANIFEST} is damaged: its parts are of another cache", _AGAIN)
    held = [(part.split, part.number, part.first, part.rows) for part in found.parts]
    if held != planned(found.facts):
        raise UserError(f"{folder / MANIFEST} is damaged: it does not name every part", _AGAIN)
    for part in found.parts:
        _require_size(folder / part.file, part.size_bytes(found.facts))
    return found


def require_intact(folder: Path) -> Manifest:
    """The manifest, every part checked by its digest. Raises `UserError` that names a damaged
    one."""
    found = read_manifest(folder)
    for part in found.parts:
        if sha256_file(folder / part.file) != part.sha256:
            raise UserError(f"{folder / part.file} is damaged: its digest is another", _AGAIN)
    return found


def open_store(folder: Path) -> Store:
    """The cache, ready to read. Raises `UserError` as `read_manifest`."""
    found = read_manifest(folder)
    records, owners, begins, ends = [], [], [], []
    for number, part in enumerate(found.parts):
        counts, own = _mapped(folder / part.file, part, found.facts)
        last = np.cumsum(counts, dtype=np.int64)
        records.append(own)
        owners.append(np.full(part.rows, number))
        begins.append(last - counts)
        ends.append(last)
    return Store(
        found.facts, tuple(records), *(np.concatenate(one) for one in (owners, begins, ends))
    )


def _mapped(
    path: Path, part: Part, facts: Facts
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    counts = np.fromfile(path, "<u4", part.rows).astype(np.int64)
    size = facts.record.bytes
    if int(counts.sum()) != part.places:
        raise UserError(f"{path} is damaged: it counts other places", _AGAIN)
    if not part.places:  # an empty file cannot be mapped
        return counts, np.empty((0, size), np.uint8)
    offset = part.rows * COUNT_BYTES
    return counts, np.memmap(path, np.uint8, "r", offset=offset, shape=(part.places, size))


def _require_size(path: Path, size_bytes: int) -> None:
    there = path.stat().st_size if path.is_file() else None
    if there is None:
        raise UserError(f"the teacher cache lacks {path}", _AGAIN)
    if there != size_bytes:
        raise UserError(f"{path} is cut: it has {there:,} bytes of {size_bytes:,}", _AGAIN)
