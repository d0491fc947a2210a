"""Artifacts: what a stage leaves behind, with its whole history.

An artifact is a folder with `artifact.json`, written last, so its presence means complete. It holds
format, digests of every file, parent digests, stage, stage config, tool versions and measurements.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from common.errors import UserError
from common.files import read_json, sha256_file, sha256_json, write_json

MANIFEST = "artifact.json"
SCHEMA = 1
_FIELDS = ("format", "files", "stage", "config", "parents", "versions", "measurements")
_AGAIN = "remove this folder: it is made again"


@dataclass(frozen=True)
class Artifact:
    """A finished folder. `files` maps relative paths to SHA-256; `external` is where a checkpoint
    that was not copied lies."""

    path: Path
    format: str
    files: Mapping[str, str]
    stage: str
    config: Mapping[str, Any] = field(default_factory=dict)
    parents: Sequence[str] = ()
    versions: Mapping[str, str] = field(default_factory=dict)
    measurements: Mapping[str, Any] = field(default_factory=dict)

    @property
    def digest(self) -> str:
        """Identity by content: format and the digest of every file."""
        return sha256_json({"format": self.format, "files": dict(self.files)})

    def file(self, name: str) -> Path:
        """The path of one of the artifact's files."""
        if name not in self.files:
            raise UserError(f"artifact {self.path} has no file '{name}'")
        return self.path / name

    def only(self, suffix: str) -> Path:
        """The single file with this suffix (for example `.gguf`)."""
        names = [name for name in self.files if name.endswith(suffix)]
        if len(names) != 1:
            raise UserError(f"artifact {self.path} has {len(names)} files '*{suffix}', not one")
        return self.path / names[0]

    def damaged_files(self) -> list[str]:
        """Names of files that are missing or whose bytes changed."""
        return [
            name
            for name, digest in self.files.items()
            if not (self.path / name).is_file() or sha256_file(self.path / name) != digest
        ]


def describe(
    folder: Path,
    *,
    format: str,
    stage: str,
    config: Mapping[str, Any] | None = None,
    parents: Sequence[str] = (),
    versions: Mapping[str, str] | None = None,
    measurements: Mapping[str, Any] | None = None,
) -> Artifact:
    """Digest every file under `folder` and write `artifact.json`, the last step of a stage."""
    files = {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != MANIFEST
    }
    artifact = Artifact(
        folder,
        format,
        files,
        stage,
        config or {},
        tuple(parents),
        versions or {},
        measurements or {},
    )
    write_json(folder / MANIFEST, _as_json(artifact))
    return artifact


def load(folder: Path) -> Artifact:
    """Read an artifact's description; its files are not read."""
    data = read_json(folder / MANIFEST)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA or not _is_whole(data):
        raise UserError(
            f"{folder / MANIFEST} is not an artifact description of this version",
            "build it again with this version",
        )
    kept = {name: data[name] for name in _FIELDS if name != "parents"}
    loaded = Artifact(path=folder, parents=tuple(data["parents"]), **kept)
    if data.get("digest") != loaded.digest:
        raise UserError(f"{folder / MANIFEST} is damaged: its digest is another", _AGAIN)
    return loaded


def load_sound(folder: Path) -> Artifact:
    """Read an artifact's description and hold every file against its digest. Raises `UserError`
    that names the damaged ones."""
    loaded = load(folder)
    marks = tuple(_mark(folder / name) for name in loaded.files)
    if damaged := _damaged(loaded.path, marks):
        names = ", ".join(damaged[:5])
        raise UserError(f"{folder} is damaged: {names} changed since it was made", _AGAIN)
    return loaded


@functools.lru_cache(maxsize=256)
def _damaged(folder: Path, _marks: tuple[tuple[int, int] | None, ...]) -> list[str]:
    """Read once in a process while sizes and times stay: a search uses a stage many times."""
    return load(folder).damaged_files()


def _mark(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_size, found.st_mtime_ns


def _is_whole(data: Mapping[str, Any]) -> bool:
    kinds = dict.fromkeys(("files", "config", "versions", "measurements"), dict)
    wanted = {"format": str, "stage": str, "parents": list, **kinds}
    if not all(isinstance(data.get(name), wanted[name]) for name in _FIELDS):
        return False
    return all(_is_inside(name) and isinstance(one, str) for name, one in data["files"].items())


def _is_inside(name: str) -> bool:
    path = PurePosixPath(name)
    return str(path) == name and not path.is_absolute() and ".." not in path.parts


def _as_json(artifact: Artifact) -> dict[str, Any]:
    return {
        "schema": SCHEMA,
        "format": artifact.format,
        "digest": artifact.digest,
        "files": dict(artifact.files),
        "stage": artifact.stage,
        "config": dict(artifact.config),
        "parents": list(artifact.parents),
        "versions": dict(artifact.versions),
        "measurements": dict(artifact.measurements),
    }
