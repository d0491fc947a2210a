"""Kind `bundle`: an encoder's bundle, run with what it ships after its digests were checked."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtimes.ort_encoder import FACTS, read_facts
from toolchain.encoder_kinds.onnx import open_folder
from toolchain.encoders import OpenEncoder
from toolchain.model_kinds.bundle import bundled, matches
from toolchain.models import OpenOptions


def task_of(path: Path) -> str | None:
    """The task of a bundle that holds an encoder."""
    folder = _folder(path) if matches(path) else None
    return read_facts(folder).task if folder else None


def open_path(path: Path, options: OpenOptions) -> OpenEncoder[Any]:
    """Open the bundle's encoder. Raises `UserError` when a file of it is missing or damaged."""
    found = bundled(path)
    return open_folder(found.file.parent, found.name, "bundle")


def _folder(path: Path) -> Path | None:
    """Where the bundle's encoder lies; None for other bundles. No digest is checked yet."""
    folders = [file.parent for file in path.glob(f"*/{FACTS}")]
    return folders[0] if len(folders) == 1 else None
