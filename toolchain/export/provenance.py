"""Where a bundle comes from, as data that two builds of the same inputs write alike.

Figures that depend on the clock or on the machine's load (times, speeds, memory peaks) and absolute
paths are left out; they belong into `log/`.
"""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path, PurePosixPath
from typing import Any

from toolchain.artifact import Artifact

_CHANGING_SUFFIXES = ("_sec", "_per_sec", "rss_bytes")
# Runtime → the packages that bring it.
ENGINES = {
    "llama.cpp": ("llama-cpp-python", "transformers"),
    "onnxruntime": ("onnxruntime", "transformers"),
}
_ENGINE_LICENSE = {"llama.cpp": "MIT", "llama-cpp-python": "MIT", "onnxruntime": "MIT"}


def reproducible(value: Any) -> Any:
    """`value` without what changes between two builds of the same inputs."""
    if isinstance(value, Mapping):
        return {
            str(key): reproducible(item)
            for key, item in value.items()
            if not str(key).endswith(_CHANGING_SUFFIXES) and not _is_place(item)
        }
    if isinstance(value, list | tuple):
        return [reproducible(item) for item in value]
    return value


def chain_entry(artifact: Artifact, *, with_digests: bool = True) -> dict[str, Any]:
    """One stage of the chain. Evidence (parity, quality) goes without digests: its files may hold
    times, and its figures are listed anyway."""
    digests = {
        "digest": artifact.digest,
        "files": dict(artifact.files),
        "parents": list(artifact.parents),
    }
    return {
        "stage": artifact.stage,
        "format": artifact.format,
        "config": reproducible(artifact.config) if with_digests else {},
        "versions": dict(artifact.versions),
        "measurements": reproducible(artifact.measurements),
        **(digests if with_digests else {}),
    }


def tool_versions(chain: Sequence[Mapping[str, Any]], tools: Sequence[str]) -> dict[str, str]:
    """Versions of everything that took part; what differs between stages is named by its stage."""
    versions = {"python": platform.python_version()}
    versions |= {tool: version(tool) for tool in ("edgeforge", *tools)}
    for entry in chain:
        for tool, number in entry["versions"].items():
            known = versions.setdefault(tool, number)
            if known != number:
                versions[f"{tool} ({entry['stage']})"] = number
    return versions


def licences(
    model_license: str | None, license_file: Path | None, packages: Sequence[str]
) -> dict[str, Any]:
    """Licences of the model (unknown stays None) and of the engine that runs it."""
    file = license_file.name if license_file else None
    engine = {name: _ENGINE_LICENSE[name] for name in packages if name in _ENGINE_LICENSE}
    # Ours are the smoke test and the default texts for calibration and evaluation.
    own = {"edgeforge": "Apache-2.0"}
    return {"model": model_license, "model_file": file, "engine": engine, "tools": own}


def _is_place(value: Any) -> bool:
    return isinstance(value, Path) or (
        isinstance(value, str) and "\n" not in value and PurePosixPath(value).is_absolute()
    )
