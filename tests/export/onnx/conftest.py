"""Tiny decoders and their ONNX exports, made once: an exporter takes some seconds to start."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_models import tiny_llama
from tiny_onnx import exported

from toolchain.artifact import Artifact

TEXT = "The lamp in the kitchen is on, isn't it?\n把客厅的灯打开，然后关掉空调。 x = a[1]\n"


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("onnx")


@pytest.fixture(scope="session")
def checkpoint(home: Path) -> Path:
    """Head size 16, which the builder takes; widths that differ from the vocabulary's 320."""
    return tiny_llama(home / "llama", hidden=64, ffn=96)


@pytest.fixture(scope="session")
def tied_checkpoint(home: Path) -> Path:
    return tiny_llama(home / "tied", hidden=64, ffn=96, tied=True)


@pytest.fixture(scope="session")
def narrow_checkpoint(home: Path) -> Path:
    """Head size 8, which GroupQueryAttention does not take."""
    return tiny_llama(home / "narrow", hidden=32, ffn=96, layers=1)


@pytest.fixture(scope="session")
def built(home: Path, checkpoint: Path) -> Artifact:
    return exported(checkpoint, home / "built")


@pytest.fixture(scope="session")
def built_tied(home: Path, tied_checkpoint: Path) -> Artifact:
    return exported(tied_checkpoint, home / "built-tied")


@pytest.fixture(scope="session")
def traced(home: Path, narrow_checkpoint: Path) -> Artifact:
    return exported(narrow_checkpoint, home / "traced")


@pytest.fixture(scope="session")
def evaluation(home: Path) -> Path:
    path = home / "evaluation.txt"
    path.write_text("\n<|document|>\n".join(f"{i} {TEXT * 2}" for i in range(4)), "utf-8")
    return path
