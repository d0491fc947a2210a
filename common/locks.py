"""One writer at a time, or one after the other: locks that end with their process, however that
ends."""

from __future__ import annotations

import contextlib
import fcntl
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from common.errors import UserError
from common.folders import make_folder

LOCK_FILE = ".lock"


@contextlib.contextmanager
def only_writer(folder: Path) -> Iterator[None]:
    """Hold the folder's lock; raises `UserError` that names the holder when another process does.

    The kernel drops the lock when the process ends, so none is ever stale.
    """
    make_folder(folder)
    with (folder / LOCK_FILE).open("a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            holder = lock.read().strip() or "unknown"
            raise UserError(
                f"another build is writing to {folder} (process {holder})",
                "wait until it is done, or choose another folder with out=",
            ) from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


@contextlib.contextmanager
def turn(lock: Path, *, shared: bool = False) -> Iterator[None]:
    """Wait until the lock file is free and hold it; several hold it at once when all of them share
    it."""
    make_folder(lock.parent)
    with lock.open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)
        yield


@contextlib.contextmanager
def passing_turn(lock: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """As `turn`, with a lock file that goes with its holder; `waiting` is called before a wait."""
    try:
        with opened_alone(lock, waiting):
            yield
    finally:
        remove_unheld(lock)


@contextlib.contextmanager
def free(lock: Path) -> Iterator[bool]:
    """Whether nobody holds the lock file; then this process does, and the file goes again."""
    try:
        with opened_alone(lock, _give_up):
            try:
                yield True
            finally:
                lock.unlink(missing_ok=True)
    except _Held:
        yield False


@contextlib.contextmanager
def opened_alone(path: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[BinaryIO]:
    """The file, emptied and open for writing by no other process that opens it by this function.
    A holder may rename or remove it: the next one makes it anew."""
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        with os.fdopen(handle, "r+b") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                waiting()
                fcntl.flock(stream, fcntl.LOCK_EX)
            if not _is_at(handle, path):  # its holder before moved it or took it away
                continue
            stream.truncate(0)
            yield stream
            return


def remove_unheld(path: Path) -> None:
    """Remove a file that was opened alone, unless another process holds it by now."""
    with contextlib.suppress(OSError), free(path):
        pass


class _Held(Exception):
    """Another process holds the lock."""


def _give_up() -> None:
    raise _Held


def _is_at(handle: int, path: Path) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:
        return False
    return os.path.samestat(os.fstat(handle), found)
