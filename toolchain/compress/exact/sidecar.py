"""`edgeforge/exact.safetensors` in a checkpoint's folder: the blocks that its weights are made of.

The checkpoint holds the blocks' values in float32, for everything that reads checkpoints. The
export writes the blocks themselves: found again from their values they need not be the same
(K-quants). Rows are kept as (rows, bytes of a row), uint8, under the weights' names.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from runtimes.ggml_blocks import columns_of, row_bytes
from toolchain.checkpoint.safetensors_header import read_header
from toolchain.compress.exact.settings import ExactPlan
from toolchain.data.text import COMPANION_FOLDER

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FILE = f"{COMPANION_FOLDER}/exact.safetensors"
_PLAN = "plan"
_AGAIN = "make it again; a checkpoint that was changed afterwards has no use for its blocks"


@dataclass(frozen=True)
class Exact:
    """The plan of a training or rounding, and the blocks it ended with, by the plan's names."""

    plan: ExactPlan
    blocks: Mapping[str, NDArray[np.uint8]]


def write_exact(folder: Path, exact: Exact) -> None:
    """Write it into a checkpoint's folder."""
    from safetensors.numpy import save_file

    path = folder / FILE
    path.parent.mkdir(exist_ok=True)
    save_file(dict(exact.blocks), path, {_PLAN: exact.plan.model_dump_json()})


def is_exact(folder: Path) -> bool:
    """Whether the checkpoint in the folder has blocks of its own."""
    return (folder / FILE).is_file()


def read_plan(folder: Path) -> ExactPlan | None:
    """The plan of the folder's blocks, which are not read; None without any. Raises `UserError`
    when the file is broken."""
    from safetensors import SafetensorError, safe_open

    path = folder / FILE
    if not path.is_file():
        return None
    try:
        with safe_open(path, "numpy") as stream:
            return ExactPlan.model_validate_json((stream.metadata() or {}).get(_PLAN, ""))
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(path, error) from None


def read_exact(folder: Path) -> Exact:
    """The folder's blocks. Raises `UserError` when there are none, or the file is broken."""
    from safetensors import SafetensorError
    from safetensors.numpy import load_file

    path, plan = folder / FILE, read_plan(folder)
    if plan is None:
        raise UserError(f"{path} is missing", _AGAIN)
    read_header(path)  # more strictly than safetensors, which takes two tensors of one name
    try:
        blocks = load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None
    if set(plan.types) != set(blocks):
        raise _damaged(path, "its types and blocks are of other weights")
    for name, rows in blocks.items():
        if not _are_rows(rows, plan.types[name]):
            raise _damaged(path, f"{name} has no rows of {plan.types[name]}")
    return Exact(plan, blocks)


def _are_rows(blocks: NDArray[np.uint8], kind: str) -> bool:
    """Whether these are rows of whole blocks of the type."""
    if blocks.dtype.name != "uint8" or blocks.ndim != 2 or not blocks.size:
        return False
    try:
        return row_bytes(kind, columns_of(kind, blocks.shape[1])) == int(blocks.shape[1])
    except KeyError:  # no type of llama.cpp
        return False


def _damaged(path: Path, why: object) -> UserError:
    return UserError(f"{path} is damaged: {' '.join(str(why).split())[:200]}", _AGAIN)
