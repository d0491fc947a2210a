"""Kind `gguf`: an embedding model as one GGUF file, run by llama.cpp."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runtimes.gguf_file import read_metadata
from runtimes.llama_embedder import ARCHITECTURES, LlamaEmbedder
from toolchain.encoders import EMBEDDING, OpenEncoder
from toolchain.models import OpenOptions


def task_of(path: Path) -> str | None:
    """Embedding, where the file is of an architecture that reads whole texts."""
    if not path.is_file() or path.suffix != ".gguf":
        return None
    architecture = read_metadata(path).get("general.architecture")
    known = isinstance(architecture, str) and architecture in ARCHITECTURES
    return EMBEDDING if known else None


def open_path(path: Path, options: OpenOptions) -> OpenEncoder[Any]:
    """Open the file. Raises `UserError` with llama.cpp's own words when it does not load."""
    metadata = read_metadata(path)
    architecture = metadata["general.architecture"]
    longest: Any = metadata.get(f"{architecture}.context_length")
    known = type(longest) is int and longest > 0
    max_tokens: int = min(options.context_tokens, longest if known else options.context_tokens)
    engine = LlamaEmbedder(
        path,
        max_tokens=max_tokens,
        exact=options.exact,
        threads=options.threads,
        check_weights=True,
    )
    facts = {"engine": "llama.cpp", "size_bytes": path.stat().st_size}
    return OpenEncoder(path.stem, "gguf", EMBEDDING, engine, path.parent, max_tokens, facts)
