"""Kind `bundle`: what a build made for a device, run with the settings that it ships with."""

from __future__ import annotations

from pathlib import Path

from common.errors import UserError
from common.files import read_json, sha256_file
from toolchain.model_kinds import gguf
from toolchain.models import OpenModel, OpenOptions

PROFILE, MANIFEST, SUMS, TOKENIZER = "profile.json", "manifest.json", "SHA256SUMS", "tokenizer"
_AGAIN = "build the bundle again"


def matches(path: Path) -> bool:
    """A folder with a bundle's manifest and profile."""
    return (path / PROFILE).is_file() and (path / MANIFEST).is_file()


def open_path(path: Path, options: OpenOptions) -> OpenModel:
    """Open the bundle's model file after its digest was checked.

    Raises `UserError` when the file is missing or damaged, or is no GGUF.
    """
    profile = read_json(path / PROFILE)
    name = profile.get("model_file") if isinstance(profile, dict) else None
    if not isinstance(name, str) or Path(name).name != name:
        raise UserError(f"{path / PROFILE} names no model file", _AGAIN)
    if not name.endswith(".gguf"):
        raise UserError(f"bundle {path} holds {name}, which no engine here runs")
    file = path / name
    _require_sound(path, file)
    tokenizer = path / TOKENIZER
    return gguf.open_file(
        file,
        f"{profile.get('model', path.name)} ({profile.get('target', path.name)})",
        options,
        kind="bundle",
        kv_cache_type=str(profile.get("kv_cache_type", "f16")),
        companion=tokenizer if tokenizer.is_dir() else None,
    )


def _require_sound(bundle: Path, file: Path) -> None:
    """Compare the model file with SHA256SUMS."""
    try:
        lines = (bundle / SUMS).read_text(encoding="utf-8").splitlines()
    except OSError:
        raise UserError(f"bundle {bundle} has no {SUMS}", _AGAIN) from None
    sums = {name: digest for digest, _, name in (line.partition("  ") for line in lines)}
    if file.name not in sums:
        raise UserError(f"{SUMS} of bundle {bundle} does not name {file.name}", _AGAIN)
    if not file.is_file():
        raise UserError(f"bundle {bundle} lacks its model file {file.name}", _AGAIN)
    if sha256_file(file) != sums[file.name]:
        raise UserError(f"{file} is damaged: its digest is not the one in {SUMS}", _AGAIN)
