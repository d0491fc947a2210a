"""The Ollama programs that tests run: every version that set-up or the user has put here.

EDGEFORGE_TEST_OLLAMA=/path/ollama:/other/ollama names others.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtimes.ollama import Client
from runtimes.ollama_server import server

ABSENT = "no Ollama here: scripts/install_ollama.sh builds one"
# Where scripts/install_ollama.sh puts versions other than its default.
_MORE = Path(sys.prefix, "share", "edgeforge", "ollama")


def programs() -> list[Path]:
    """Programs, one of each version."""
    named = os.environ.get("EDGEFORGE_TEST_OLLAMA")
    if named:
        return [Path(name) for name in named.split(os.pathsep)]
    beside = str(Path(sys.executable).parent)
    default = shutil.which("ollama") or shutil.which("ollama", path=beside)
    found = [Path(default)] if default else []
    return found + sorted(_MORE.glob("*/ollama"))


def version_of(program: Path) -> str:
    """The program's own version."""
    done = subprocess.run(
        [program, "--version"],
        env={**os.environ, "OLLAMA_HOST": "127.0.0.1:1"},  # where no server answers
        capture_output=True,
        text=True,
        check=True,
    )
    return (done.stdout + done.stderr).split()[-1]


def every_version() -> list[object]:
    """Parameters of a fixture: each program, named by its version; one that skips without any."""
    found = [pytest.param(program, id=version_of(program)) for program in programs()]
    return found or [pytest.param(None, id="none", marks=pytest.mark.skip(reason=ABSENT))]


def served(program: Path | None, folder: Path) -> Iterator[Client]:
    """A client of a real server with models and home in `folder`; skips without a program."""
    if program is None:
        pytest.skip(ABSENT)
    with server(folder, binary=program) as client:
        # One thread: those of a server on busy cores wait for each other.
        yield Client(client.url, program, {"num_thread": 1})


def processes_with(variable: str, argument: str = "") -> list[int]:
    """Processes with this environment variable and argument (Linux), this one not counted."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            variables = (entry / "environ").read_bytes().split(b"\0")
            arguments = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except OSError:
            continue
        if variable.encode() in variables and (not argument or argument in arguments):
            found.append(int(entry.name))
    return found
