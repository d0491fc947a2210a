"""What is typed at a shell: paths as they were typed, and words to be typed.

typed_path("~/models/it"), typed_path("./~root")
print("next:", shell_line("edgeforge", "check", path))
"""

from __future__ import annotations

import os
import shlex
from pathlib import Path

from common.errors import is_shown


def typed_path(text: str) -> Path:
    """The path, with the home of a leading `~`. `./~root` is a name here, which `Path.expanduser`
    would take for root's home, and the `~name` of nobody too."""
    return Path(os.path.expanduser(text))  # noqa: PTH111


def shell_word(value: object) -> str:
    """A value as one word for a shell. What a terminal would obey or hide stands as an escape in
    `$'…'`, which bash and zsh read."""
    text = str(value)
    if all(map(is_shown, text)):
        return shlex.quote(text)
    return "$'" + "".join(map(_in_ansi_quotes, text)) + "'"


def shell_line(*words: object) -> str:
    """A command line of these words."""
    return " ".join(map(shell_word, words))


def _in_ansi_quotes(character: str) -> str:
    if character in "\\'":
        return f"\\{character}"
    if is_shown(character):
        return character
    return "".join(f"\\x{byte:02x}" for byte in os.fsencode(character))
