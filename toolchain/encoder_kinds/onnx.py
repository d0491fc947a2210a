"""Kind `onnx`: the folder of an ONNX encoder, run by onnxruntime with its own tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtimes.ort_encoder import FACTS, MODEL, open_encoder, read_facts
from toolchain.checkpoint.locate import model_name
from toolchain.encoders import OpenEncoder
from toolchain.models import OpenOptions


def task_of(path: Path) -> str | None:
    """By encoder.json."""
    return read_facts(path).task if (path / FACTS).is_file() else None


def open_path(path: Path, options: OpenOptions) -> OpenEncoder[Any]:
    """Open the folder; raises `UserError` when one of its files is missing or broken."""
    engine = open_encoder(path)
    facts = {"engine": "onnxruntime", "variant": engine.facts.variant, "file": MODEL}
    return OpenEncoder(
        model_name(str(path)),
        "onnx",
        engine.facts.task,
        engine,
        path,
        engine.facts.max_tokens,
        facts,
    )
