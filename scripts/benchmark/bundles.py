"""A bundle's ONNX file and manifest, taken only when every file is as SHA256SUMS says."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_json, sha256_file

PROFILE, MANIFEST, SUMS = "profile.json", "manifest.json", "SHA256SUMS"
_AGAIN = "build the bundle again"


def bundle_manifest(bundle: Path) -> dict[str, Any]:
    """The manifest of a sound bundle. Raises `UserError` naming every file that is missing or
    damaged."""
    if not bundle.is_dir():
        raise UserError(f"bundle {bundle} does not exist", "build it first, or check the path")
    try:
        lines = (bundle / SUMS).read_text(encoding="utf-8").splitlines()
    except OSError:
        raise UserError(f"bundle {bundle} has no {SUMS}", _AGAIN) from None
    faults = []
    for line in filter(str.strip, lines):
        digest, _, name = line.partition("  ")
        if not (bundle / name).is_file():
            faults.append(f"{name} is missing")
        elif sha256_file(bundle / name) != digest:
            faults.append(f"{name} is damaged: its digest is not the one in {SUMS}")
    if faults:
        raise UserError(f"bundle {bundle} is damaged", _AGAIN, details=faults)
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
