"""An ONNX decoder in a bundle: the folder `model/` with graph, weights, tokenizer and settings."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifact import Artifact
from toolchain.export.prompts import prompts_of_bundle as prompts

if TYPE_CHECKING:
    from toolchain.export.bundle import Config

RUNTIME, KIND = "onnxruntime", "decoder"
FOLDER, GRAPH = "model", "model.onnx"
__all__ = ["KIND", "RUNTIME", "describe", "place", "prompts"]


def place(source: Artifact, folder: Path) -> str:
    """Copy every file of the artifact into `model/`; the graph's name within the bundle."""
    for name in source.files:
        target = folder / FOLDER / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.file(name), target)
    return f"{FOLDER}/{GRAPH}"


def describe(
    folder: Path, model_file: str, config: Config, stop_texts: Sequence[str]
) -> dict[str, Any]:
    """Ollama runs no ONNX files."""
    return {}
