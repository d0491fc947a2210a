"""Folders whose names are on the disk."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path


def make_folder(folder: Path) -> None:
    """Make a folder and those above it, each on the disk."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for one in reversed(missing):
        one.mkdir(exist_ok=True)
        sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in the folder are on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_folder(folder: Path) -> None:
    """Remove a folder with all that is in it, as far as that can be done. Where too many files are
    open for `shutil.rmtree`, which holds one for each level, names do."""
    shutil.rmtree(folder, ignore_errors=True)
    if folder.is_dir() and not folder.is_symlink():
        _remove_by_names(folder)


def _remove_by_names(folder: Path) -> None:
    with contextlib.suppress(OSError):
        for name in os.listdir(folder):  # noqa: PTH208 (closed before anything is removed)
            path = folder / name
            if path.is_dir() and not path.is_symlink():
                _remove_by_names(path)
            else:
                path.unlink(missing_ok=True)
        folder.rmdir()
