"""Kind `bundle`: what a build made for a device, run with the settings that it ships with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from common.files import read_json, sha256_file
from toolchain.model_kinds import gguf, onnx
from toolchain.models import OpenModel, OpenOptions

PROFILE, MANIFEST, SUMS, TOKENIZER = "profile.json", "manifest.json", "SHA256SUMS", "tokenizer"
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
    adapter: Path | None = None


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
        adapter=found.adapter,
        companion=tokenizer if tokenizer.is_dir() else None,
    )


def bundled(path: Path) -> Bundled:
    """The bundle's model. Raises `UserError` when its files are not those of its SHA256SUMS."""
    profile = read_json(path / PROFILE)
    name = profile.get("model_file") if isinstance(profile, dict) else None
    if not isinstance(name, str) or not _is_inside(name):
        raise UserError(f"{path / PROFILE} names no model file", _AGAIN)
    _require_sound(path, name)
    adapter = profile.get("adapter_file")
    if isinstance(adapter, str) and _is_inside(adapter):
        _require_sound(path, adapter)
    else:
        adapter = None
    shown = f"{profile.get('model', path.name)} ({profile.get('target', path.name)})"
    cache = str(profile.get("kv_cache_type", "f16"))
    return Bundled(path / name, shown, cache, path / adapter if adapter else None)


def _is_inside(name: str) -> bool:
    """Whether a name is that of a file in the bundle or in a folder of it."""
    parts = Path(name).parts
    return 0 < len(parts) <= 2 and ".." not in parts and not Path(name).is_absolute()


def _require_sound(bundle: Path, name: str) -> None:
    """Compare the model file, and all that lies in a folder with it, with SHA256SUMS."""
    try:
        lines = (bundle / SUMS).read_text(encoding="utf-8").splitlines()
    except OSError:
        raise UserError(f"bundle {bundle} has no {SUMS}", _AGAIN) from None
    sums = {file: digest for digest, _, file in (line.partition("  ") for line in lines)}
    if name not in sums:
        raise UserError(f"{SUMS} of bundle {bundle} does not name {name}", _AGAIN)
    folder = f"{name.rpartition('/')[0]}/"
    for file in sums:
        if file != name and (folder == "/" or not file.startswith(folder)):
            continue
        if not (bundle / file).is_file():
            raise UserError(f"bundle {bundle} lacks its model file {file}", _AGAIN)
        if sha256_file(bundle / file) != sums[file]:
            raise UserError(
                f"{bundle / file} is damaged: its digest is not the one in {SUMS}", _AGAIN
            )
