"""Paths as they were typed, and words that can be typed again."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from common.shell import shell_line, shell_word, typed_path


def test_a_home_is_that_of_a_leading_tilde_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    assert typed_path("~/it") == Path("/home/someone/it")
    assert typed_path("./~root") == Path("~root")
    assert typed_path("~no-such-user") == Path("~no-such-user")


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "two words",
        "it's",
        "",
        "-rf",
        "a\nb",
        "\x1b[31m'\\",
        "\u202egpj",
        "café\u200b",
        "~",
    ],
)
def test_a_word_is_read_by_a_shell_as_it_was(text: str) -> None:
    typed = shell_word(text)
    assert typed.isprintable()
    done = subprocess.run(["bash", "-c", f"printf %s {typed}"], capture_output=True, check=True)
    assert os.fsdecode(done.stdout) == text


def test_a_line_is_its_words() -> None:
    assert shell_line("edgeforge", "check", Path("my model")) == "edgeforge check 'my model'"
