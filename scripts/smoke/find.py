"""Which engine is used: the first that this machine has and that takes the model."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from .bundle import CannotRun
from .engine import Engine, PassedOver
from .llama_cli import LlamaCli
from .llama_python import LlamaCpp
from .llama_server import LlamaServer
from .ollama import Ollama
from .onnx_decoder import OnnxDecoder

AUTO = "auto"
# In this order on a device: what its users run first.
ENGINES: dict[str, tuple[Any, ...]] = {
    ".gguf": (Ollama, LlamaServer, LlamaCli, LlamaCpp),
    ".onnx": (OnnxDecoder,),
}
# The one that tells every token and is pinned to one version.
RECORDERS: dict[str, Any] = {".gguf": LlamaCpp, ".onnx": OnnxDecoder}


def engine_names() -> list[str]:
    return [engine.name for engines in ENGINES.values() for engine in engines]


def find_engine(engine: Any, profile: dict[str, Any]) -> Engine:
    """The engine; `CannotRun` with what is missing and how to get it."""
    try:
        found: Engine = engine()
        return found
    except (ImportError, OSError, RuntimeError, CannotRun) as error:
        recorded = profile.get("recorded", {})
        wanted = recorded.get("version") if recorded.get("name") == engine.name else None
        how = engine.install.format(version="==" + wanted if wanted else "")
        raise CannotRun(f"{engine.name} is not there ({error}); get it with: {how}") from None


def recorder(profile: dict[str, Any]) -> Engine:
    """What answers when a bundle is built."""
    return find_engine(RECORDERS[Path(profile["model_file"]).suffix], profile)


def candidates(profile: dict[str, Any], wanted: str) -> list[Any]:
    """The engines to try for the bundle's kind of model."""
    able = ENGINES.get(Path(profile["model_file"]).suffix, ())
    if wanted == AUTO:
        return list(able)
    if wanted not in engine_names():
        choices = ", ".join([AUTO, *engine_names()])
        raise CannotRun(f"there is no engine '{wanted}': choose one of {choices}")
    chosen = [engine for engine in able if engine.name == wanted]
    if not chosen:
        choices = ", ".join(engine.name for engine in able)
        raise CannotRun(f"{wanted} cannot run {profile['model_file']}: choose one of {choices}")
    return chosen


def load_engine(
    model: Path, profile: dict[str, Any], wanted: str, context: int, threads: int
) -> tuple[Engine, float, list[PassedOver]]:
    """The first engine that loads the model, how long that took, and why others did not."""
    reasons: list[PassedOver] = []
    for candidate in candidates(profile, wanted):
        try:
            engine = find_engine(candidate, profile)
        except CannotRun as error:
            reasons.append(PassedOver(candidate.name, False, str(error)))
            continue
        start = time.perf_counter()
        try:
            engine.load(model, profile, context, threads)
        except BaseException as error:
            engine.close()
            if not isinstance(error, CannotRun):
                raise
            reasons.append(PassedOver(candidate.name, True, str(error)))
        else:
            return engine, time.perf_counter() - start, reasons
    raise CannotRun("no engine works here: " + "; ".join(one.reason for one in reasons))
