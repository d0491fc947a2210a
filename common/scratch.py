"""Temporary folders that also go when their process was killed: the next one clears them away.

    with ScratchFolder("convert") as name:
        ...

A folder is left behind when its process, whose number is in the name, is gone and nobody holds the
folder's lock (a process of another container is not seen, its lock is).
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import tempfile
from pathlib import Path

from common.folders import remove_folder

_PREFIX = "edgeforge"
_NAME = re.compile(_PREFIX + r"-[a-z-]+-(\d+)-\w+")


class ScratchFolder(tempfile.TemporaryDirectory[str]):
    """A folder in the system's place for temporary files, or another; `purpose` is a lowercase
    word."""

    def __init__(self, purpose: str, place: str | None = None) -> None:
        clear_left_behind(place)
        super().__init__(prefix=f"{_PREFIX}-{purpose}-{os.getpid()}-", dir=place)
        self._lock = os.open(self.name, os.O_RDONLY)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def cleanup(self) -> None:
        """Remove the folder; once more does nothing."""
        super().cleanup()
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1


def clear_left_behind(place: str | None = None) -> None:
    """Remove this user's scratch folders whose processes are gone."""
    for path in Path(place or tempfile.gettempdir()).glob(f"{_PREFIX}-*"):
        hit = _NAME.fullmatch(path.name)
        with contextlib.suppress(OSError):
            if hit and path.lstat().st_uid == os.getuid() and not _runs(int(hit[1])):
                _remove_free(path)


def _remove_free(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove_folder(path)
    finally:
        os.close(handle)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OverflowError:
        return False
    except PermissionError:
        pass
    return True
