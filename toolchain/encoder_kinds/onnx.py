"""Kind `onnx`: a folder with an encoder's ONNX graph and `encoder.json`, run by onnxruntime."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtimes.ort import model_bytes
from runtimes.ort_encoder import FACTS, MODEL, open_encoder, read_facts
from toolchain.encoders import OpenEncoder
from toolchain.models import OpenOptions


def task_of(path: Path) -> str | None:
    """What `encoder.json` says."""
    return read_facts(path).task if (path / FACTS).is_file() else None


def open_path(path: Path, options: OpenOptions) -> OpenEncoder[Any]:
    """Open graph and tokenizer. Raises `UserError` when one of them is broken or missing."""
    return open_folder(path, path.name, "onnx")


def open_folder(path: Path, name: str, kind: str) -> OpenEncoder[Any]:
    """Open an encoder's folder under a name."""
    model = open_encoder(path)
    return OpenEncoder(
        name=name,
        kind=kind,
        task=model.facts.task,
        engine=model,
        companion=path,
        max_tokens=model.facts.max_tokens,
        facts={
            "engine": "onnxruntime",
            "variant": model.facts.variant,
            "size_bytes": model_bytes(path / MODEL),
        },
    )
