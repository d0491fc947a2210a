"""What was measured of a model's family: `families.json`, which scripts/model_matrix.py writes.

docs/models.md is made of the same file. A refusal that only the trial showed is told here, before a
build meets it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_json
from toolchain.checkpoint.info import CheckpointInfo

FILE = Path(__file__).with_name("families.json")
PAGE = "docs/models.md"
REFUSED = ("refused", "fault")
_PRUNE = "prune "
# Part of the toolchain → the cells that try it, the one that all depends on first.
CELLS: dict[str, tuple[str, ...]] = {
    "tokenizer": ("load",),
    "train": ("finetune", "merge", "distill"),
    "prune": ("prune layers", "prune groups", "prune ffn", "prune hidden"),
    "prune-vocab": ("prune-vocab",),
    "sparsify": ("sparsify",),
    "gguf": ("gguf", "F16", "Q8_0", "Q5_K_M", "Q4_K_M", "Q4_0"),
    "onnx": ("onnx", "onnx-int8"),
    "ollama": ("ollama",),
}


@dataclass(frozen=True)
class Measured:
    """A family of the matrix: what it is, and each cell's verdict, details, mend and figures."""

    family: str
    title: str
    model_types: tuple[str, ...]
    architectures: tuple[str, ...]
    rope: str
    tied: bool
    cells: Mapping[str, Mapping[str, Any]]

    def refused(self, part: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
        """Cells of a part that did not work."""
        for name in CELLS.get(part, ()):
            if name in self.cells and self.cells[name]["verdict"] in REFUSED:
                yield name, self.cells[name]


def measured_of(info: CheckpointInfo) -> Measured | None:
    """The family that this model is most like; None where none of its kind was measured."""
    own = [row for row in _families() if info.model_type in row.model_types]
    rope, tied = _rope(info), info.tied_embeddings
    own.sort(
        key=lambda row: (
            info.architecture not in row.architectures,
            row.rope != rope,
            row.tied != tied,
        )
    )
    return own[0] if own else None


def overview(info: CheckpointInfo) -> list[str]:
    """For part `measured`: nothing where every cell of the family works, else what does not."""
    row = measured_of(info)
    if row is None:
        return [
            f"no model of type '{info.model_type}' is in the matrix ({PAGE}): a build's gates show "
            "whether it works"
        ]
    found = [name for part in CELLS for name, _ in row.refused(part)]
    return [f"as {row.title} ({PAGE}): refused: {', '.join(found)}"] if found else []


def require_measured(part: str, info: CheckpointInfo) -> list[str]:
    """What only the trial showed of a part: limits. Raises `UserError` where nothing of the part
    worked, or what the rest depends on did not."""
    row = measured_of(info)
    if row is None:
        return []
    found = [(name, cell) for name, cell in row.refused(part) if not cell.get("foreseen")]
    if not found:
        return []
    name, cell = found[0]
    if (name == CELLS[part][0] and part != "prune") or len(found) == len(CELLS[part]):
        raise UserError(
            f"{cell['details'][0]} (measured with {row.title}, {PAGE})", str(cell.get("mend", ""))
        )
    return [f"{name} was refused with {row.title}: {cell['details'][0]}" for name, cell in found]


@cache
def _families() -> tuple[Measured, ...]:
    if not FILE.is_file():
        return ()
    return tuple(
        Measured(
            family=str(name),
            title=str(row["title"]),
            model_types=tuple(row["model_types"]),
            architectures=tuple(row["architectures"]),
            rope=str(row["rope"]),
            tied=bool(row["tied"]),
            cells=row["cells"],
        )
        for name, row in read_json(FILE)["families"].items()
    )


def _rope(info: CheckpointInfo) -> str:
    """The kind of rope scaling; empty where there is none."""
    config = info.text_config
    said = config.get("rope_parameters") or config.get("rope_scaling") or {}
    kind = said.get("rope_type", said.get("type", "")) if isinstance(said, dict) else ""
    return "" if kind in ("default", None) else str(kind)
