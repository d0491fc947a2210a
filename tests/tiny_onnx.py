"""ONNX exports of tiny checkpoints for tests."""

from __future__ import annotations

from pathlib import Path

from toolchain.artifact import Artifact
from toolchain.export.onnx import export


def exported(checkpoint: Path, out: Path, **config: object) -> Artifact:
    """The decoder's float32 ONNX artifact in `out`."""
    out.mkdir()
    source = Artifact(checkpoint, "hf", {}, "input")
    return export.run(source, export.Config.model_validate(config), out)
