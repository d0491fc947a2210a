"""A GGUF in a bundle: one file, and Modelfiles for Ollama."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.artifact import Artifact
from toolchain.export.modelfile_settings import modelfile_settings
from toolchain.export.ollama.modelfile import write_modelfiles
from toolchain.export.prompts import prompts_of_bundle as prompts

if TYPE_CHECKING:
    from toolchain.export.bundle import Config

RUNTIME, KIND = "llama.cpp", "decoder"
__all__ = ["KIND", "RUNTIME", "describe", "place", "prompts"]


def place(source: Artifact, folder: Path) -> str:
    """Copy the model file; its name."""
    model = source.only(".gguf")
    shutil.copyfile(model, folder / model.name)
    return model.name


def describe(
    folder: Path, model_file: str, config: Config, stop_texts: Sequence[str]
) -> dict[str, Any]:
    """Write the Modelfiles; what they say."""
    from toolchain.export.bundle import adapter_file

    settings = modelfile_settings(
        config.checkpoint.path,
        folder / model_file,
        config.target,
        config.plan,
        config.recipe,
        stop_texts,
    )
    written = write_modelfiles(folder, model_file, settings, adapter_name=adapter_file(config))
    return {
        "files": list(written.files),
        "family": written.match.family if written.match else None,
        "refusal": written.refusal,
        "notes": list(written.notes),
        "stops": list(written.stops),
        "parameters": dict(written.parameters),
    }
