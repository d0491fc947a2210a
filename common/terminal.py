"""What a terminal is shown: text, never commands to it.

    sys.stdout = shown(sys.stdout)

Answers of a model, names and rows of files are anybody's; with escape sequences among them they
could rewrite what stands on the screen, or more. A file or a pipe gets every character as it is.
"""

from __future__ import annotations

import io
import re
from typing import Any, TextIO

# Control characters but tab and line ends (`\r` only as part of one).
_COMMANDS = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]|\r(?!\n)")


def shown(stream: TextIO) -> TextIO:
    """The stream, with control characters made visible where it is a terminal. What it cannot
    encode (half a surrogate, of a file's name) is written as an escape."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")
    return _Shown(stream) if stream.isatty() else stream  # type: ignore[return-value]


class _Shown:
    """A stream whose `write` shows what it would obey."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(_COMMANDS.sub(_visible, text))
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _visible(match: re.Match[str]) -> str:
    return f"\\x{ord(match[0]):02x}"
