"""File scans that are not made twice: a small JSON beside the finished stages.

An entry counts while path, size, modification time and inode of the file are the same. A damaged
cache is the same as none.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from common.files import write_json
from common.folders import make_folder
from common.progress import progress_bar
from toolchain.checkpoint.info import TensorHeader
from toolchain.checkpoint.scan import FileScan, NonFinite, scan_file

CACHE_FILE = "checkpoint-files.json"
SCHEMA = 1
_PROGRESS_FROM_BYTES = 200_000_000
# A file this young could still change without a change of its modification time.
_YOUNG_NS = 50_000_000


class FileScans:
    """Scans of files, taken from the cache where the file is unchanged.

    Nothing is written before `save`; `folder` None keeps no cache.
    """

    def __init__(self, folder: Path | None) -> None:
        self._file = folder / CACHE_FILE if folder is not None else None
        self._entries = _load(self._file) if self._file is not None else {}
        self._new: dict[str, FileScan] = {}

    def scan(self, path: Path, tensors: Sequence[TensorHeader] = ()) -> FileScan:
        """The file's digest and, where it has tensors, which of them are not finite."""
        key = _key(path)
        scan = self._entries.get(key)
        if scan is None or scan.tensors < len(tensors):
            with _progress(path) as advance:
                scan = scan_file(path, tensors, advance)
            self._entries[key] = scan
            if time.time_ns() - path.stat().st_mtime_ns > _YOUNG_NS and _key(path) == key:
                self._new[key] = scan
        return scan

    def save(self) -> None:
        """Write what is new to the cache; a folder that cannot be written is no fault."""
        if self._file is None or not self._new:
            return
        known = {**_load(self._file), **self._new}
        entries = {key: _as_json(scan) for key, scan in known.items()}
        with contextlib.suppress(OSError):
            make_folder(self._file.parent)
            write_json(self._file, {"schema": SCHEMA, "files": entries})
        self._new.clear()


def _key(path: Path) -> str:
    stat = path.stat()
    facts = (os.fspath(path.absolute()), stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return json.dumps(facts)


@contextlib.contextmanager
def _progress(path: Path) -> Iterator[Callable[[int], object] | None]:
    """A function to report bytes to: a bar on stderr for a large file, else None."""
    size_bytes = path.stat().st_size
    if size_bytes < _PROGRESS_FROM_BYTES:
        yield None
        return
    with progress_bar(f"checking {path.name}", unit="B", total=size_bytes) as bar:
        yield bar.update


def _load(file: Path) -> dict[str, FileScan]:
    try:
        data = json.loads(file.read_text(encoding="utf-8"))
        if data["schema"] != SCHEMA:
            return {}
        return {key: _from_json(entry) for key, entry in data["files"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _as_json(scan: FileScan) -> dict[str, Any]:
    return {
        "sha256": scan.sha256,
        "tensors": scan.tensors,
        "non_finite": [[entry.tensor, entry.nan, entry.inf] for entry in scan.non_finite],
    }


def _from_json(entry: Any) -> FileScan:
    sha256 = entry["sha256"]
    if not isinstance(sha256, str) or len(sha256) != 64 or int(sha256, 16) < 0:
        raise ValueError(sha256)
    rows = [NonFinite(str(name), int(nan), int(inf)) for name, nan, inf in entry["non_finite"]]
    return FileScan(sha256, int(entry["tensors"]), tuple(rows))
