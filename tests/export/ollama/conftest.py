"""Real Ollamas for these tests: one server of each version for the session, in folders of their
own."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from ollama_programs import every_version, served

from runtimes.ollama import Client

# The helper that makes a tiny GGUF lies with the tests of the runtime.
sys.path.append(str(Path(__file__).parents[2] / "runtimes"))


@pytest.fixture(scope="session", params=every_version())
def ollama(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Client]:
    """A client of a real server, of each version; skips where there is none."""
    yield from served(request.param, tmp_path_factory.mktemp("ollama"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GGUF without a template. Models made of the same file share one runner."""
    from ollama_models import write_tiny_gguf

    return write_tiny_gguf(tmp_path_factory.mktemp("tiny") / "tiny.gguf")
