"""What the machine lacks is one error, in whatever words a library says it."""

from __future__ import annotations

import errno
import json
import os
import sqlite3
from pathlib import Path

import pytest

from common.errors import Lack, Told, UserError, told
from common.resources import explained, explained_text, lack_of_process


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.EACCES, "permission denied"),
        (errno.EMFILE, "too many files"),
        (errno.EFBIG, "larger than this process may write"),
        (errno.ENOMEM, "memory ran out"),
        (errno.EIO, "cannot be read or written"),
    ],
)
def test_errors_of_the_system_name_the_file(number: int, says: str) -> None:
    error = explained(OSError(number, os.strerror(number), "/some/file"))
    assert error is not None
    assert error.problem.startswith("/some/file: ") and says in error.problem
    assert error.mend


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("Error while serializing: I/O error: No space left on device (os error 28)", "disk"),
        ("failed to quantize: basic_ios::clear: iostream error", "disk"),
        ("[enforce fail at inline_container.cc:668] . PytorchStreamWriter failed writing file "
         "data/0: file write failed", "disk"),
        ("RuntimeError: [enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate "
         "memory: you tried to allocate 8 bytes. Error code 12", "memory"),
        ("numpy._core._exceptions._ArrayMemoryError: Unable to allocate 1 GiB", "memory"),
        ("100 requested and 24 written", "disk"),
        ("std::bad_alloc", "memory"),
        ("SystemError: error return without exception set", "memory"),
        ("SystemError: <built-in> returned NULL without setting an exception", "memory"),
        ("ImportError: libx.so: failed to map segment from shared object", "memory"),
        ("OSError: [Errno 24] Too many open files: '/x'", "files are open"),
        ("RuntimeError: can't start new thread", "thread"),
    ],
)  # fmt: skip
def test_words_of_libraries(text: str, says: str) -> None:
    error = explained(RuntimeError(text))
    assert error is not None and says in error.problem
    told = explained_text(f"Traceback\n{text}\n", "the work")
    assert told is not None and told.problem == f"the work: {error.problem}"


def test_the_cause_counts_and_other_errors_are_left_alone(tmp_path: Path) -> None:
    try:
        try:
            raise OSError(errno.ENOSPC, "No space left on device")
        except OSError as error:
            raise RuntimeError("cannot save") from error
    except RuntimeError as error:
        assert explained(error) is not None
    assert explained(MemoryError()) is not None
    assert explained(sqlite3.OperationalError("database or disk is full")) is not None
    assert explained(ValueError("a plain mistake")) is None
    assert explained(FileNotFoundError(errno.ENOENT, "No such file", "x")) is None
    assert explained_text("a plain mistake", "the work") is None


def test_a_killed_process_lacked_memory_and_one_that_succeeded_nothing() -> None:
    killed = lack_of_process(-9, "", "the work")
    assert killed is not None and killed.problem.startswith("the work was killed")
    full = lack_of_process(1, "No space left on device", "the work")
    assert full is not None and full.problem == "the work: the disk is full"
    assert lack_of_process(0, "No space left on device", "the work") is None
    assert lack_of_process(-11, "", "the work") is None


@pytest.mark.parametrize("kind", [Lack, UserError])
def test_an_error_of_another_process_keeps_its_kind(kind: type[Told]) -> None:
    facts = json.loads(json.dumps(kind("no room", "free some", details=["a", "b"]).facts()))
    again = told(facts)
    assert type(again) is kind
    assert str(again) == "no room\n  - a\n  - b\nhint: free some"
