"""Which engine is used: the first that this machine has and that takes the model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from .bundle import CannotRun
from .engine import Engine
from .llama_python import LlamaCpp
from .onnx_decoder import OnnxDecoder

ENGINES: dict[str, tuple[Any, ...]] = {".gguf": (LlamaCpp,), ".onnx": (OnnxDecoder,)}


def find_engine(profile: dict[str, Any]) -> Engine:
    """The first engine for the bundle's kind of model that this machine has."""
    reasons = []
    for engine in ENGINES.get(Path(profile["model_file"]).suffix, ()):
        try:
            found: Engine = engine()
            return found
        except (ImportError, OSError, RuntimeError) as error:
            wanted = profile.get("recorded", {}).get("version")
            how = engine.install.format(version="==" + wanted if wanted else "")
            reasons.append(f"{engine.name} is not there ({error}); get it with: {how}")
    raise CannotRun("no engine found: " + "; ".join(reasons))
