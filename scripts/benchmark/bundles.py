"""A bundle's ONNX file and manifest, taken only when every file is as SHA256SUMS says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_json
from toolchain.trust.sums import require_sound

PROFILE, MANIFEST = "profile.json", "manifest.json"
_AGAIN = "build the bundle again"


def bundle_manifest(bundle: Path) -> dict[str, Any]:
    """The manifest of a sound bundle. Raises `UserError` naming every file that is missing or
    damaged."""
    if not bundle.is_dir():
        raise UserError(f"bundle {bundle} does not exist", "build it first, or check the path")
    require_sound(bundle)
    manifest = read_json(bundle / MANIFEST)
    if not isinstance(manifest, dict):
        raise UserError(f"{bundle / MANIFEST} is no manifest", _AGAIN)
    return manifest


def bundle_graph(bundle: Path) -> Path:
    """The model file that the profile names; a `UserError` when it is no ONNX file."""
    profile = read_json(bundle / PROFILE)
    name = profile.get("model_file") if isinstance(profile, dict) else None
    if not isinstance(name, str):
        raise UserError(f"{bundle / PROFILE} names no model file", _AGAIN)
    if not name.endswith(".onnx"):
        raise UserError(
            f"bundle {bundle} holds {name}, no ONNX model",
            "this benchmark proves ONNX INT8; give the GGUF with --gguf to compare with it",
        )
    return bundle / name
