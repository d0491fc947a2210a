"""Kind `bundle`: what a build made for a device, run with the settings that it ships with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import read_json
from toolchain.model_kinds import gguf, onnx
from toolchain.models import OpenModel, OpenOptions
from toolchain.trust.sums import require_sound

PROFILE, MANIFEST, TOKENIZER = "profile.json", "manifest.json", "tokenizer"
_AGAIN = "build the bundle again"


def matches(path: Path) -> bool:
    """A folder with a bundle's manifest and profile."""
    return (path / PROFILE).is_file() and (path / MANIFEST).is_file()


@dataclass(frozen=True)
class Bundled:
    """A bundle's model file, sound, and what its profile says."""

    file: Path
    name: str
    kv_cache_type: str


def open_path(path: Path, options: OpenOptions) -> OpenModel:
    """Open the bundle's model after its digests were checked.

    Raises `UserError` when a file is missing or damaged, or no engine here runs it.
    """
    found = bundled(path)
    if found.file.suffix == ".onnx":
        return onnx.open_folder(found.file.parent, options, name=found.name, kind="bundle")
    if found.file.suffix != ".gguf":
        raise UserError(f"bundle {path} holds {found.file.name}, which no engine here runs")
    tokenizer = path / TOKENIZER
    return gguf.open_file(
        found.file,
        found.name,
        options,
        kind="bundle",
        kv_cache_type=found.kv_cache_type,
        companion=tokenizer if tokenizer.is_dir() else None,
    )


def bundled(path: Path) -> Bundled:
    """The bundle's model. Raises `UserError` when its files are not those of its SHA256SUMS."""
    sums = require_sound(path)
    profile = read_json(path / PROFILE)
    name = profile.get("model_file") if isinstance(profile, dict) else None
    if not isinstance(name, str) or name not in sums:
        raise UserError(f"{path / PROFILE} names no model file of the bundle", _AGAIN)
    shown = f"{profile.get('model', path.name)} ({profile.get('target', path.name)})"
    return Bundled(path / name, shown, str(profile.get("kv_cache_type", "f16")))
