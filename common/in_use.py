"""Which files engines have open, told to the process that watches this one (`toolchain.watched`).

    note("llama.cpp", path)     # before the engine sees the file
    noted()                     # in the watching process: [("llama.cpp", "model.gguf")]

An engine's crash ends its process before anything can be said, so it is said beforehand.
"""

from __future__ import annotations

import functools
import json
import mmap
from pathlib import Path

_BYTES = 1 << 14


@functools.cache
def board() -> mmap.mmap:
    """Memory that processes forked from now on share; made before the fork."""
    return mmap.mmap(-1, _BYTES)


def note(engine: str, file: Path) -> None:
    """Say that an engine is about to open a file."""
    known = noted()
    if (engine, str(file)) in known:
        return
    data = json.dumps([*known, (engine, str(file))]).encode()
    if len(data) < _BYTES:
        board()[: len(data) + 1] = data + b"\0"


def noted() -> list[tuple[str, str]]:
    """(engine, file) of everything that was opened."""
    data = board()[:].partition(b"\0")[0]
    return [(engine, file) for engine, file in json.loads(data or b"[]")]
