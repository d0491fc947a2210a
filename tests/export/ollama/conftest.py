"""A real Ollama for these tests: one server for the session, in a folder of its own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.errors import UserError
from runtimes.ollama import Client, find_binary
from runtimes.ollama_server import server

# The helper that makes a tiny GGUF lies with the tests of the runtime.
sys.path.append(str(Path(__file__).parents[2] / "runtimes"))


@pytest.fixture(scope="session")
def ollama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of a real server; skips where there is no Ollama."""
    try:
        find_binary()
    except UserError as error:
        pytest.skip(error.problem)
    with server(tmp_path_factory.mktemp("ollama")) as client:
        yield client
