"""Files that are either complete or absent: digests, durable writes, folders moved into place."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.errors import UserError

_BLOCK_BYTES = 1 << 20
PARTIAL_SUFFIX = ".partial"


def sha256_file(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def sha256_json(value: Any) -> str:
    """Hex SHA-256 of a value's canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()


def read_json(path: Path) -> Any:
    """A file's JSON; a `UserError` that names the file when it cannot be read as such."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{path} cannot be read as JSON: {error}") from None


def write_text(path: Path, text: str) -> None:
    """Write a text file durably: under a temporary name, synced, then renamed."""
    partial = path.with_name(f".{path.name}{PARTIAL_SUFFIX}")
    with partial.open("w", encoding="utf-8", newline="\n") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    partial.replace(path)
    _sync_folder(path.parent)


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON with sorted keys, durably."""
    write_text(path, json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n")


@contextlib.contextmanager
def folder_in_the_making(final: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `final`; on success sync it and move it into place.

    On any error the temporary folder goes and `final` stays as it was. What a killed process left
    under the temporary name is cleared first.
    """
    final.parent.mkdir(parents=True, exist_ok=True)
    partial = final.with_name(f".{final.name}{PARTIAL_SUFFIX}")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        sync_tree(partial)
        replace_folder(partial, final)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def replace_folder(partial: Path, final: Path) -> None:
    """Move a finished folder into place, over one that may be there."""
    if final.exists():
        old = final.with_name(f".{final.name}.old")
        shutil.rmtree(old, ignore_errors=True)
        final.rename(old)
        partial.rename(final)
        shutil.rmtree(old, ignore_errors=True)
    else:
        partial.rename(final)
    _sync_folder(final.parent)


def sync_tree(folder: Path) -> None:
    """Wait until every file under the folder is on the disk."""
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    _sync_folder(folder)


def require_free_bytes(folder: Path, needed_bytes: int, purpose: str) -> None:
    """Raise a `UserError` when the disk under `folder` has less than `needed_bytes` free."""
    existing = next(p for p in (folder, *folder.absolute().parents) if p.exists())
    free_bytes = shutil.disk_usage(existing).free
    if free_bytes < needed_bytes:
        raise UserError(
            f"not enough disk for {purpose}: {needed_bytes / 1e9:.2f} GB needed, "
            f"{free_bytes / 1e9:.2f} GB free under {existing}",
            "free some space, or choose another folder with out=",
        )


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
