"""Kind `bundle`: what a build made for a device, run with the settings that it ships with."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.damage import told_as_damage
from common.errors import UserError
from common.files import read_object
from runtimes.threads import idle_cores
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
    context_tokens: int
    threads: int | None
    stop_texts: tuple[str, ...]
    adapter: Path | None = None


def open_path(path: Path, options: OpenOptions) -> OpenModel:
    """Open the bundle's model after its digests were checked.

    Raises `UserError` when a file is missing or damaged, or no engine here runs it.
    """
    found = bundled(path)
    if options.as_shipped:
        options = _as_shipped(found, options)
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
        # As in the smoke test, whose answers are the recorded ones; it says why there.
        flash_attention=found.kv_cache_type.lower() not in ("f16", "f32", "bf16"),
        stop_texts=found.stop_texts,
    )


def bundled(path: Path) -> Bundled:
    """The bundle's model. Raises `UserError` when its files are not those of its SHA256SUMS."""
    sums = require_sound(path)
    profile = read_object(path / PROFILE)
    name = profile.get("model_file")
    if not isinstance(name, str) or name not in sums:
        raise UserError(f"{path / PROFILE} names no model file of the bundle", _AGAIN)
    with told_as_damage(path / PROFILE, _AGAIN):
        return _bundled(path, name, profile, sums)


def _bundled(path: Path, name: str, profile: Mapping[str, Any], sums: Mapping[str, str]) -> Bundled:
    shown = f"{profile.get('model', path.name)} ({profile.get('target', path.name)})"
    threads, adapter = profile.get("threads"), profile.get("adapter_file")
    return Bundled(
        file=path / name,
        name=shown,
        kv_cache_type=str(profile.get("kv_cache_type", "f16")),
        context_tokens=_count(profile.get("context_length", 2048)),
        threads=_count(threads) if threads else None,
        stop_texts=tuple(map(str, profile.get("stop_texts") or ())),
        adapter=path / adapter if isinstance(adapter, str) and adapter in sums else None,
    )


def _count(value: Any) -> int:
    if type(value) is not int or not 0 < value < 1 << 31:
        raise ValueError(f"{value!r:.40} is no count")
    return value


def _as_shipped(found: Bundled, options: OpenOptions) -> OpenOptions:
    """The device may have more cores than this machine has idle ones."""
    threads = options.threads
    if threads is None and found.threads is not None:
        threads = min(found.threads, idle_cores())
    return dataclasses.replace(options, context_tokens=found.context_tokens, threads=threads)
