"""Bases that the tests of this folder share."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import tiny_llama


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("bases") / "base", hidden=64, ffn=96)


@pytest.fixture(scope="session")
def tied_base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bases") / "tied"
    return tiny_llama(folder, hidden=64, ffn=96, tied=True, seed=2)
