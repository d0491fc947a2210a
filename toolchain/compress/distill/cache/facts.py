"""What a cache is of, and its parts: `plan.json` while it is written, `cache.json` once complete.

The digest of the facts is the cache's key: parts of one key belong together, wherever they were
written.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from common.errors import UserError
from common.files import read_json, read_object, sha256_file, sha256_json, write_json
from common.strict import Strict, parse
from toolchain.compress.distill.cache.record import RecordFormat
from toolchain.stage import Input
from toolchain.train.job import Kind

MANIFEST, PLAN = "cache.json", "plan.json"
COUNT_BYTES = 4
_MOST_PARTS = 1_000_000
Split = Literal["train", "validation"]
SPLITS: tuple[Split, ...] = ("train", "validation")


class SplitRows(Strict):
    """A split's encoded rows: the digest of their file, how many, and the learned places."""

    digest: str
    rows: int = Field(ge=0)
    places: int = Field(ge=0)


class Facts(Strict):
    """All that decides what is in a cache. `teacher` is the checkpoint's digest, `vocabulary` that
    of tokens and their ids; `vocab` counts the teacher's logits (or classes, `labels`)."""

    teacher: str
    teacher_parameters: int
    vocabulary: str
    kind: Kind
    labels: tuple[str, ...]
    splits: dict[Split, SplitRows]
    max_tokens: int
    packing: bool
    loss_on: str
    quantization: str
    bf16: bool
    vocab: int
    top_k: int = Field(ge=1)
    temperatures: tuple[float, ...]
    part_rows: int = Field(ge=1)
    batch_size: int

    @model_validator(mode="after")
    def _has_both_splits(self) -> Facts:
        if set(self.splits) != set(SPLITS):
            raise ValueError(f"splits must be {' and '.join(SPLITS)}")
        if any(one.rows > _MOST_PARTS * self.part_rows for one in self.splits.values()):
            raise ValueError(f"more than {_MOST_PARTS} parts")
        return self

    @property
    def key(self) -> str:
        """Identity of the cache."""
        return sha256_json(self.model_dump(mode="json"))

    @property
    def record(self) -> RecordFormat:
        """How a place is stored."""
        return RecordFormat(self.top_k, self.vocab, self.temperatures)


class Part(Strict):
    """Consecutive rows of a split in one file: a count of places for each row (4 bytes), then the
    records of all places."""

    key: str
    split: Split
    number: int
    first: int
    rows: int
    places: int
    sha256: str

    @property
    def file(self) -> str:
        """Name of the part's file."""
        return part_name(self.split, self.number)

    def size_bytes(self, facts: Facts) -> int:
        """Size of the file."""
        return self.rows * COUNT_BYTES + self.places * facts.record.bytes


class Manifest(Strict):
    """A complete cache."""

    facts: Facts
    parts: tuple[Part, ...]


def part_name(split: Split, number: int) -> str:
    """Name of a part's file."""
    return f"{split}-{number:05d}.part"


def planned(facts: Facts) -> list[tuple[Split, int, int, int]]:
    """Every part: split, number, first row, rows."""
    found: list[tuple[Split, int, int, int]] = []
    for split in SPLITS:
        rows = facts.splits[split].rows
        for number, first in enumerate(range(0, rows, facts.part_rows)):
            found.append((split, number, first, min(facts.part_rows, rows - first)))
    return found


def finished_part(folder: Path, facts: Facts, split: Split, number: int) -> Part | None:
    """The part, where it is complete: its own record is written last."""
    name = part_name(split, number)
    note, path = folder / f"{name}.json", folder / name
    if not note.is_file() or not path.is_file():
        return None
    part = parse(Part, read_json(note), str(note))
    whole = part.key == facts.key and path.stat().st_size == part.size_bytes(facts)
    return part if whole else None


def finished_parts(folder: Path, facts: Facts) -> list[Part]:
    """The complete parts, in order."""
    found = (finished_part(folder, facts, split, n) for split, n, *_ in planned(facts))
    return [part for part in found if part is not None]


def write_manifest(folder: Path, facts: Facts, parts: Sequence[Part]) -> None:
    """Seal the cache: the last step."""
    write_json(folder / MANIFEST, Manifest(facts=facts, parts=tuple(parts)).model_dump(mode="json"))


def cache_input(folder: Path) -> Input:
    """A complete cache as an input, named by its manifest, which names the parts. Raises
    `UserError` when the folder is none."""
    folder = folder.expanduser().absolute()
    if not (folder / MANIFEST).is_file():
        raise UserError(
            f"{folder} is no complete teacher cache",
            "write it, or join its shares: edgeforge teacher-cache",
        )
    return Input(digest=sha256_file(folder / MANIFEST), path=folder)


def read_facts(folder: Path) -> Facts | None:
    """What the folder is, or will be, a cache of."""
    for name in (MANIFEST, PLAN):
        if (folder / name).is_file():
            return parse(Facts, read_object(folder / name).get("facts"), str(folder / name))
    return None
