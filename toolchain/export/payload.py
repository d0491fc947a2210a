"""What of an exported model goes into the bundle, and how it is tried there, by its format.

A payload is a module with

    RUNTIME: str                                                       # the engine that runs it
    KIND: str                                                          # decoder or encoder
    place(source, folder) -> str                                       # the model file's name there
    prompts(config) -> (rows of prompts.jsonl, stop texts)
    describe(folder, model_file, config, stop_texts) -> dict           # `ollama` of the manifest

and one row in `PAYLOADS`.
"""

from __future__ import annotations

import importlib
from typing import Any

from common.errors import UserError
from toolchain.artifact import Artifact

PAYLOADS = {
    "gguf": "toolchain.export.gguf.payload",
    "onnx": "toolchain.export.onnx.payload",
    "onnx-encoder": "toolchain.export.onnx.encoder_payload",
}


def payload_of(source: Artifact) -> Any:
    """The module for an artifact's format."""
    if source.format not in PAYLOADS:
        raise UserError(f"an artifact of format '{source.format}' cannot be bundled")
    return importlib.import_module(PAYLOADS[source.format])


def model_bytes(source: Artifact, model_file: str) -> int:
    """Size of a model file and what lies beside it under its name (external data)."""
    name = model_file.rsplit("/", 1)[-1]
    return sum(source.file(n).stat().st_size for n in source.files if n.startswith(name))
