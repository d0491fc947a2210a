"""What the machine ran out of, as an error that a user can mend: disk, memory, rights, handles.

    raise explained(error) or error

Libraries say it each in their own way; a process of our own that died says it in its output.
"""

from __future__ import annotations

import errno
import os
import re
import signal
from collections.abc import Iterator

from common.errors import Lack

_KEPT = "finished stages are kept: the same command goes on"
_FREE = f"free some space, or choose another folder with out=; {_KEPT}"
_MEMORY = (
    "memory ran out",
    f"close other programs, raise the limit (ulimit -v), or take a smaller model; {_KEPT}",
)
_HANDLES = ("too many files are open", f"raise the limit (ulimit -n); {_KEPT}")
_RIGHTS = ("permission denied", "change its rights, or choose another folder with out=")

_NOT_WRITTEN = -1  # a library that does not tell why
# Number of the system's error → what it is, and the mend.
_KINDS: dict[int, tuple[str, str]] = {
    errno.ENOSPC: ("the disk is full", _FREE),
    errno.EDQUOT: ("the disk quota is used up", _FREE),
    errno.EFBIG: (
        "the file is larger than this process may write",
        f"raise the limit (ulimit -f), or choose a file system for large files; {_KEPT}",
    ),
    errno.EROFS: ("the file system is read-only", "choose another folder with out="),
    errno.EACCES: _RIGHTS,
    errno.EPERM: _RIGHTS,
    errno.EMFILE: _HANDLES,
    errno.ENFILE: _HANDLES,
    errno.ENOMEM: _MEMORY,
    errno.EAGAIN: ("no further process or thread can be started", f"close some; {_KEPT}"),
    _NOT_WRITTEN: (
        "a write failed: the disk is full, or a file may not be so large",
        f"free some space, look at the limit (ulimit -f), or choose another folder; {_KEPT}",
    ),
    errno.EIO: ("the disk cannot be read or written", f"look at the system's log; {_KEPT}"),
}
# As libraries write the same.
_WORDS = (
    (re.compile(r"database or disk is full"), errno.ENOSPC),
    (
        # llama.cpp, numpy, torch
        re.compile(
            r"iostream error|\b\d+ requested and \d+ written\b"
            r"|PytorchStreamWriter failed writing file|unexpected pos \d+ vs"
        ),
        _NOT_WRITTEN,
    ),
    (re.compile(r"readonly database"), errno.EROFS),
    (
        re.compile(
            r"\bMemoryError\b|bad_alloc|not enough memory|can(?:no|')t allocate memory"
            r"|failed to (?:allocate|map segment)|unable to allocate|std::bad_array_new_length"
            # Python itself, where it could not make the exception
            r"|\bwithout (?:exception set|setting an (?:error|exception))\b",
            re.IGNORECASE,
        ),
        errno.ENOMEM,
    ),
    (re.compile(r"can't start new thread|Resource temporarily unavailable"), errno.EAGAIN),
)
_OS_ERROR = re.compile(r"\b(?:os error|errno) (\d+)\b", re.IGNORECASE)
_MOST_CAUSES = 8


def explained(error: BaseException) -> Lack | None:
    """The error, or the one that caused it, as a lack that a user can mend; None for any other."""
    for one in _chain(error):
        kind = _number(one)
        if kind is not None:
            what, mend = _KINDS[kind]
            place = _place(one)
            return Lack(f"{place}: {what}" if place else what, mend)
    return None


def explained_text(text: str, doing: str) -> Lack | None:
    """The same for what was said of it; `doing` is what was being done."""
    kind = _told(text)
    return None if kind is None else Lack(f"{doing}: {_KINDS[kind][0]}", _KINDS[kind][1])


def lack_of_process(code: int, said: str, doing: str) -> Lack | None:
    """What a process ran out of, where that is why it ended with this code (negative: the signal)
    and these words."""
    if code == -signal.SIGKILL:
        return Lack(
            f"{doing} was killed, most likely because memory ran out",
            f"close other programs, or do it on a machine with more memory; {_KEPT}",
        )
    return explained_text(said, doing) if code else None


def _chain(error: BaseException) -> Iterator[BaseException]:
    one: BaseException | None = error
    for _ in range(_MOST_CAUSES):
        if one is None:
            return
        yield one
        one = one.__cause__ or (None if one.__suppress_context__ else one.__context__)


def _number(error: BaseException) -> int | None:
    if isinstance(error, MemoryError):
        return errno.ENOMEM
    if isinstance(error, OSError) and error.errno in _KINDS:
        return error.errno
    return _told(str(error)) if isinstance(error, Exception) else None


def _told(text: str) -> int | None:
    for hit in _OS_ERROR.finditer(text):
        if int(hit[1]) in _KINDS:
            return int(hit[1])
    for number in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EMFILE):
        if os.strerror(number) in text:
            return number
    return next((number for words, number in _WORDS if words.search(text)), None)


def _place(error: BaseException) -> str:
    """The file that an error of the system names."""
    name = getattr(error, "filename", None)
    return os.fsdecode(name) if isinstance(name, str | bytes | os.PathLike) else ""
