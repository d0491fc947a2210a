"""What the Modelfile of a bundle says: from checkpoint, target, plan and recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.files import read_object
from runtimes.gguf_file import read_metadata
from toolchain.checkpoint.documents import license_of
from toolchain.data.chat_format import chat_format
from toolchain.export.ollama.modelfile import ModelfileSettings

_ADDS_BOS = "tokenizer.ggml.add_bos_token"
_ALL_LAYERS = -1


def modelfile_settings(
    checkpoint: Path,
    gguf: Path,
    target: Mapping[str, Any],
    plan: Mapping[str, Any],
    recipe: Mapping[str, Any],
    stop_texts: Sequence[str],
) -> ModelfileSettings:
    """The recipe's PARAMETERs win over the target's, both over the checkpoint's generation config.

    The context is the planned one; a thread count is written only where the target names one, GPU
    layers only where not all of them fit (all is Ollama's own default).
    """
    form = chat_format(checkpoint)
    generation = checkpoint / "generation_config.json"
    ollama = recipe.get("ollama") or {}
    threads, layers = target["threads"], target["gpu_layers"]
    _, license_file = license_of(checkpoint)
    return ModelfileSettings(
        chat_template=form.template if form else None,
        bos_token=form.bos_token if form else None,
        eos_token=form.eos_token if form else None,
        eos_tokens=tuple(stop_texts),
        engine_adds_bos=bool(read_metadata(gguf).get(_ADDS_BOS, False)),
        generation=read_object(generation) if generation.is_file() else {},
        num_ctx=int(plan["context_tokens"]),
        num_thread=threads if isinstance(threads, int) else None,
        num_gpu=None if layers == _ALL_LAYERS else layers,
        parameters={**target["ollama"]["parameters"], **(ollama.get("parameters") or {})},
        system=ollama.get("system"),
        license_text=license_file.read_text("utf-8", "replace") if license_file else None,
    )
