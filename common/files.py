"""Files that are either complete or absent: digests, durable writes, folders moved into place.

What appears under its name is on the disk before: the file's bytes, its folder, and the folders
above that were made for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from common.errors import UserError
from common.folders import make_folder, remove_folder, sync_folder
from common.locks import opened_alone, passing_turn, remove_unheld
from common.resources import explained

_BLOCK_BYTES = 1 << 20
_MOST_NAME_BYTES = 255  # of all usual file systems
PARTIAL_SUFFIX, OLD_SUFFIX, LOCK_SUFFIX = ".partial", ".old", ".lock"
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2  # fcntl.h, linux/fs.h


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
    return hashlib.sha256(_as_bytes(text)).hexdigest()


def can_be_a_file(name: str) -> bool:
    """Whether file systems take the relative path: no part too long, nothing hidden in it."""
    parts = PurePosixPath(name).parts
    short = all(len(part.encode("utf-8", "replace")) <= _MOST_NAME_BYTES for part in parts)
    return short and name.isprintable()


def read_json(path: Path) -> Any:
    """A file's JSON; a `UserError` that names the file when it cannot be read as such."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"{path} is missing") from None
    except RecursionError:
        raise UserError(f"{path} cannot be read as JSON: nested too deeply") from None
    except (OSError, ValueError) as error:  # no JSON, no UTF-8, a number of thousands of digits
        raise explained(error) or UserError(f"{path} cannot be read as JSON: {error}") from None


def read_object(path: Path) -> dict[str, Any]:
    """A file's JSON object; a `UserError` that names the file when it is anything else."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a JSON object")
    return value


@contextlib.contextmanager
def file_in_the_making(final: Path) -> Iterator[BinaryIO]:
    """Yield a file under a temporary name to write to; on success it is synced and renamed.

    On any error it goes and `final` stays as it was. Processes that make the same file do so one
    after the other.
    """
    partial = partial_of(final)
    try:
        with opened_alone(partial) as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
            partial.replace(final)
    except BaseException:  # a signal too, that came as the file was opened
        remove_unheld(partial)
        raise
    sync_folder(final.parent)


def put_in_place(partial: Path, final: Path) -> None:
    """Sync a file that a library wrote under another name, and rename it."""
    with partial.open("rb") as stream:
        os.fsync(stream.fileno())
    partial.replace(final)
    sync_folder(final.parent)


def write_text(path: Path, text: str) -> None:
    """Write a text file durably: under a temporary name, synced, then renamed."""
    with file_in_the_making(path) as stream:
        stream.write(text.encode())


def write_json(path: Path, value: Any) -> None:
    """Write readable JSON with sorted keys, durably."""
    text = json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n"
    with file_in_the_making(path) as stream:
        stream.write(_as_bytes(text))


def _as_bytes(text: str) -> bytes:
    """JSON in UTF-8; half a surrogate, which JSON can hold and UTF-8 cannot, as JSON's escape."""
    return text.encode("utf-8", "backslashreplace")


def copy_file(source: Path, final: Path) -> None:
    """Copy a file durably: under a temporary name, synced, then renamed."""
    with source.open("rb") as stream, file_in_the_making(final) as out:
        shutil.copyfileobj(stream, out, _BLOCK_BYTES)


def link_file(source: Path, final: Path) -> None:
    """Give a file a second name, or copy it where the file system has no such thing."""
    try:
        os.link(source, final)
    except OSError:
        copy_file(source, final)


@contextlib.contextmanager
def folder_in_the_making(final: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `final`; on success sync it and move it into place.

    On any error the temporary folder goes and `final` stays as it was. What a killed process left
    is cleared first. The caller sees to it that no other process makes the same folder.
    """
    make_folder(final.parent)
    clear_leftovers(final)
    partial = partial_of(final)
    with Path(os.devnull).open("rb") as spare:
        try:
            partial.mkdir()
            yield partial
            sync_tree(partial)
            replace_folder(partial, final)
        except BaseException:
            spare.close()  # removing takes a handle, and what failed may have taken all
            remove_folder(partial)
            raise


@contextlib.contextmanager
def folder_made_alone(final: Path) -> Iterator[Path]:
    """As `folder_in_the_making`, after any other process that makes the same folder."""
    make_folder(final.parent)
    with passing_turn(lock_of(final)), folder_in_the_making(final) as partial:
        yield partial


def replace_folder(partial: Path, final: Path) -> None:
    """Move a finished folder into place, over one that may be there."""
    if not final.exists():
        partial.rename(final)
        sync_folder(final.parent)
        return
    if partial == partial_of(final) and _exchanged(partial, final):
        old = partial
    else:  # a moment without `final`, which `clear_leftovers` mends
        old = final.with_name(f".{final.name}{OLD_SUFFIX}")
        remove_folder(old)
        final.rename(old)
        partial.rename(final)
    sync_folder(final.parent)
    remove_folder(old)


def clear_leftovers(final: Path) -> None:
    """Remove what a killed process left beside `final`, and put back what it had moved away."""
    old = final.with_name(f".{final.name}{OLD_SUFFIX}")
    if old.is_dir() and not final.exists():
        old.rename(final)
    remove_folder(old)
    remove_folder(partial_of(final))


def partial_of(final: Path) -> Path:
    """The temporary name of what is being made."""
    return final.with_name(f".{final.name}{PARTIAL_SUFFIX}")


def lock_of(final: Path) -> Path:
    """Held by the process that makes `final`."""
    return final.with_name(f".{final.name}{LOCK_SUFFIX}")


def _exchanged(one: Path, other: Path) -> bool:
    """Let two names change places at once, where system and file system can do that."""
    rename = getattr(ctypes.CDLL(None), "renameat2", None)
    names = os.fsencode(one.absolute()), os.fsencode(other.absolute())
    return rename is not None and (
        rename(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE) == 0
    )


def sync_tree(folder: Path) -> None:
    """Wait until every file and folder under the folder is on the disk."""
    for path in folder.rglob("*"):
        if path.is_dir():
            sync_folder(path)
        elif path.is_file():
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
    sync_folder(folder)


def reserve(path: Path, size_bytes: int) -> None:
    """Make a file with all of its room, to be written through a map of it: where a file with holes
    finds the disk full, the process is ended without a word."""
    with path.open("wb") as stream:
        if hasattr(os, "posix_fallocate") and size_bytes:
            os.posix_fallocate(stream.fileno(), 0, size_bytes)
        stream.truncate(size_bytes)


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
