"""The rows of a JSON array, one at a time: the file is never in memory as a whole."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO

from common.errors import UserError

_BLOCK_CHARS = 1 << 20
_LONGEST_ROW_CHARS = 64 << 20
# A literal (`false`) or an escape (`\ud83d`) that a block cuts in two fails this near to its end.
_CUT_CHARS = 8
_SPACE = re.compile(r"[ \t\r\n]*")


def array_rows(path: Path) -> Iterator[tuple[int, Any]]:
    """(line, value) of every element of the array in `path`; the line where it begins, from 1.

    Raises `UserError` that names the line of broken JSON.
    """
    with path.open(encoding="utf-8-sig") as stream:
        yield from _Array(path, stream).rows()


class _Array:
    def __init__(self, path: Path, stream: TextIO) -> None:
        self.path = path
        self.stream = stream
        self.text = ""
        self.at = 0  # what lies before it in `text` is used
        self.line = 1
        self.ended = False

    def rows(self) -> Iterator[tuple[int, Any]]:
        self._expect("[")
        if self._next() == "]":
            self._use(self.at + 1)
            self._require_end()
            return
        while True:
            self._next()
            line, value = self.line, self._value()
            yield line, value
            if self._expect(",]") == "]":
                self._require_end()
                return

    def _value(self) -> Any:
        decoder = json.JSONDecoder()
        while True:
            try:
                value, end = decoder.raw_decode(self.text, self.at)
            except json.JSONDecodeError as error:
                if self._is_broken(error) or not self._read():
                    raise self._fault(error.msg, error.pos) from None
                continue
            if end >= len(self.text) - _CUT_CHARS and self._read():
                continue  # a number may go on in the next block (`3.` reads as 3)
            self._use(end)
            return value

    def _is_broken(self, error: json.JSONDecodeError) -> bool:
        """Whether more text cannot mend it. (`error.pos` counts from the start of `text`.)"""
        if len(self.text) - self.at > _LONGEST_ROW_CHARS:
            return True
        cut_string = error.msg.startswith("Unterminated string")
        return not cut_string and error.pos < len(self.text) - _CUT_CHARS

    def _expect(self, characters: str) -> str:
        found = self._next()
        if not found or found not in characters:
            wanted = " or ".join(f"'{c}'" for c in characters)
            raise self._fault(f"expecting {wanted}, found {found or 'the end of the file'!r}")
        self._use(self.at + 1)
        return found

    def _require_end(self) -> None:
        if self._next():
            raise self._fault("there is more text after the array")

    def _next(self) -> str:
        """The next character that is no white space, not yet used; empty at the end."""
        while True:
            space = _SPACE.match(self.text, self.at)
            self._use(space.end() if space else self.at)
            if self.at < len(self.text):
                return self.text[self.at]
            if not self._read():
                return ""

    def _use(self, end: int) -> None:
        self.line += self.text.count("\n", self.at, end)
        self.at = end

    def _read(self) -> bool:
        block = "" if self.ended else self.stream.read(_BLOCK_CHARS)
        self.ended = not block
        if block:
            self.text = self.text[self.at :] + block
            self.at = 0
        return bool(block)

    def _fault(self, reason: str, position: int | None = None) -> UserError:
        end = self.at if position is None else position
        line = self.line + self.text.count("\n", self.at, end)
        return UserError(
            f"{self.path} line {line} is broken JSON: {reason}",
            "mend that line; nothing was written",
        )
