"""Checkpoints that can be relied on: sealed once complete, so a half-written one is never used."""

from __future__ import annotations

import json
import re
from collections.abc import Collection
from pathlib import Path

from common.errors import UserError
from common.files import read_json, sync_tree, write_json
from common.folders import remove_folder

SEAL = "complete.json"
STATE = "trainer_state.json"
_NAME = re.compile(r"checkpoint-(\d+)")
_KEPT = 2  # the newest, and the one before should the disk have lost the newest


def seal(checkpoint: Path) -> None:
    """Say that the checkpoint is complete: its files are on the disk, with these sizes."""
    sync_tree(checkpoint)
    write_json(checkpoint / SEAL, _sizes(checkpoint))


def is_complete(checkpoint: Path) -> bool:
    """Whether it was sealed and no file was lost or cut since. A lack of file handles or rights
    says nothing of it, and is raised."""
    try:
        return bool(read_json(checkpoint / SEAL) == _sizes(checkpoint))
    except (UserError, FileNotFoundError):
        return False


def complete_checkpoints(folder: Path) -> list[Path]:
    """The complete checkpoints, oldest first."""
    return [path for _, path in _numbered(folder) if is_complete(path)]


def newest(folder: Path) -> Path | None:
    """The checkpoint to go on from."""
    return next(iter(reversed(complete_checkpoints(folder))), None)


def step_of(checkpoint: Path) -> int:
    """After how many steps it was saved."""
    match = _NAME.fullmatch(checkpoint.name)
    if match is None:
        raise ValueError(f"{checkpoint} is no checkpoint's folder")
    return int(match[1])


def drop_incomplete(folder: Path) -> list[str]:
    """Remove half-written checkpoints; their names."""
    bad = [path for _, path in _numbered(folder) if not is_complete(path)]
    for path in bad:
        remove_folder(path)
    return [path.name for path in bad]


def rotate(folder: Path, keep: Collection[int]) -> None:
    """Remove all but the newest two and those of the steps in `keep`."""
    for path in complete_checkpoints(folder)[:-_KEPT]:
        if step_of(path) not in keep:
            remove_folder(path)


def history(checkpoint: Path) -> list[dict[str, float]]:
    """What was logged up to the checkpoint, in order."""
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    entries: list[dict[str, float]] = state["log_history"]
    return entries


def _numbered(folder: Path) -> list[tuple[int, Path]]:
    if not folder.is_dir():
        return []
    found = [(path, _NAME.fullmatch(path.name)) for path in folder.iterdir() if path.is_dir()]
    return sorted((int(match[1]), path) for path, match in found if match)


def _sizes(checkpoint: Path) -> dict[str, int]:
    return {
        path.relative_to(checkpoint).as_posix(): path.stat().st_size
        for path in sorted(checkpoint.rglob("*"))
        if path.is_file() and path.name != SEAL
    }
