"""What was read before: digests with a short text each, in a temporary database on disk."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator

Seen = Callable[[bytes, str], "str | None"]


@contextlib.contextmanager
def first_seen() -> Iterator[Seen]:
    """A function of a digest and a text: `None` when the digest comes for the first time, else the
    text that came with it then."""
    # The empty name is a temporary database: on disk once it outgrows its cache, gone at the end.
    with contextlib.closing(sqlite3.connect("", isolation_level=None)) as database:
        database.execute("CREATE TABLE seen (digest BLOB PRIMARY KEY, text TEXT) WITHOUT ROWID")
        database.execute("BEGIN")

        def seen(key: bytes, text: str) -> str | None:
            done = database.execute("INSERT OR IGNORE INTO seen VALUES (?, ?)", (key, text))
            if done.rowcount == 1:
                return None
            first = database.execute("SELECT text FROM seen WHERE digest = ?", (key,)).fetchone()
            return str(first[0])

        yield seen
