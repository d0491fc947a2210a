"""The bundle's files: verified against SHA256SUMS before anything else reads them."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

SUMS, PROFILE, PROMPTS, LOG = "SHA256SUMS", "profile.json", "prompts.jsonl", "log"
SIGNATURE, PROFILE_SCHEMA = "model.sig", 1
ENCODER = "encoder"
MOST_NAME_BYTES = 255  # of all usual file systems


class CannotRun(Exception):
    """The test itself cannot run: no bundle here, no engine, engine refuses the model."""


def verify_sums(bundle: Path) -> list[str]:
    """What is wrong with the bundle's files: damaged, missing, not covered. Empty when all is well.

    Only `log/` may hold files that SHA256SUMS does not cover: what depends on time and machine.
    """
    sums, faults = read_sums(bundle), []
    for name, digest in sorted(sums.items()):
        path = bundle / name
        if path.is_symlink() or not path.is_file():
            faults.append(name + " is missing")
        elif sha256_file(path) != digest:
            faults.append(name + " is damaged")
    for folder, folders, names in os.walk(str(bundle)):
        relative = Path(folder).relative_to(bundle)
        if relative == Path():
            folders[:] = [name for name in folders if name != LOG]
        paths = [(relative / name).as_posix() for name in names]
        known = {SUMS, SIGNATURE, *sums}  # a signature covers SHA256SUMS, not the other way
        faults += [path + " is not covered by " + SUMS for path in paths if path not in known]
    return faults


def read_sums(bundle: Path) -> dict[str, str]:
    """File name -> SHA-256, from SHA256SUMS in GNU coreutils' format."""
    try:
        lines = (bundle / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CannotRun(f"{bundle} is no bundle: {SUMS} ({error})") from None
    sums = {}
    for line in lines:
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not is_inside(name):
            raise CannotRun(f"{SUMS} of {bundle} has a bad line: {line!r}")
        sums[name] = digest
    return sums


def is_inside(name: str) -> bool:
    """Whether a relative path stays inside its folder, and a file can have it."""
    parts = Path(name).parts
    short = all(len(part.encode("utf-8", "replace")) <= MOST_NAME_BYTES for part in parts)
    plain = bool(name) and name.isprintable() and not Path(name).is_absolute()
    return plain and short and ".." not in parts


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_profile(bundle: Path) -> dict[str, Any]:
    """profile.json: model file, threads, context, KV type, GPU layers, stop texts, thresholds."""
    try:
        profile = json.loads((bundle / PROFILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CannotRun(f"{bundle} is no bundle: {PROFILE} ({error})") from None
    if not isinstance(profile, dict) or profile.get("schema") != PROFILE_SCHEMA:
        raise CannotRun(f"{bundle / PROFILE} is of another version")
    if not is_inside(str(profile.get("model_file", ""))):
        raise CannotRun(f"{bundle / PROFILE} names no model file of the bundle")
    return profile


def read_prompts(bundle: Path) -> list[dict[str, Any]]:
    try:
        lines = (bundle / PROMPTS).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError, RecursionError) as error:
        raise CannotRun(f"{bundle / PROMPTS} cannot be read: {error}") from None
    if not all(isinstance(row, dict) for row in rows):
        raise CannotRun(f"{bundle / PROMPTS} holds other than prompts")
    return rows


def write_prompts(bundle: Path, prompts: list[dict[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in prompts]
    (bundle / PROMPTS).write_text("".join(lines), encoding="utf-8")


def adapter_of(model: Path, profile: dict[str, Any]) -> Path | None:
    """The LoRA adapter that lies beside the model because it is not merged into it."""
    name = str(profile.get("adapter_file") or "")
    if not name:
        return None
    if not is_inside(name):
        raise CannotRun(f"{PROFILE} names no adapter of the bundle: {name!r}")
    return model.parent / name


def bos_text(bundle: Path) -> str:
    """The text of the token that begins every input; empty where the tokenizer has none."""
    try:
        path = bundle / "tokenizer" / "tokenizer_config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return ""
    token = config.get("bos_token") if isinstance(config, dict) else None
    return str(token.get("content", "") if isinstance(token, dict) else token or "")
