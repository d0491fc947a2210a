"""A hub checkpoint's small files and tensor headers, without its weights.

    fetch_headers("org/name", None, folder)

Each weight file becomes its real header and a hole of the real size, so that whatever reads headers
from a folder reads these. Only the header's bytes are fetched, by HTTP range requests.
"""

from __future__ import annotations

import shutil
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from toolchain.checkpoint.hub import (
    SAFETENSORS,
    SMALL,
    explained,
    matching,
    pickles_wanted,
)
from toolchain.checkpoint.safetensors_header import LENGTH_BYTES, MAX_HEADER_BYTES

# Nearly every header is shorter than this; a longer one takes a second request.
_FIRST_BYTES = 1 << 16
_WEIGHTS = ".safetensors"


def fetch_headers(repo: str, revision: str | None, folder: Path) -> bool:
    """Fill `folder`; False when the hub lists nothing: it cannot be reached, or does not know the
    repository.

    Raises `UserError` when repository or revision need a login, and when there are no safetensors.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import DryRunError

    named = f"{repo}@{revision}" if revision else repo
    try:
        listed = snapshot_download(repo, revision=revision, dry_run=True)
        _fill(repo, revision, {entry.filename: entry for entry in listed}, folder)
    except DryRunError:
        return False
    except UserError:
        raise
    except Exception as error:
        told = explained(error, named, repo)
        if told is None:
            raise
        raise told from error
    return True


def _fill(repo: str, revision: str | None, listed: Mapping[str, Any], folder: Path) -> None:
    from huggingface_hub import snapshot_download

    names = list(listed)
    pickles_wanted(f"{repo}@{revision}" if revision else repo, names, False)
    small = [*SMALL, *(pattern for pattern in SAFETENSORS if not pattern.endswith(_WEIGHTS))]
    snapshot = Path(snapshot_download(repo, revision=revision, allow_patterns=small))
    for name in matching(names, small):
        _copy(snapshot, folder, name)
    for name in matching(names, SAFETENSORS):
        if name.endswith(_WEIGHTS):
            _write_hollow(repo, listed[name], folder / name)


def _copy(snapshot: Path, folder: Path, name: str) -> None:
    target = folder / name
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(snapshot / name, target)


def _write_hollow(repo: str, entry: Any, path: Path) -> None:
    start = _first_bytes(repo, entry, _FIRST_BYTES)
    length = struct.unpack("<Q", start[:LENGTH_BYTES])[0] if len(start) >= LENGTH_BYTES else 0
    whole = LENGTH_BYTES + length
    if len(start) < whole <= min(entry.file_size, MAX_HEADER_BYTES):
        start = _first_bytes(repo, entry, whole)
    with path.open("wb") as stream:
        stream.write(start[: min(whole, entry.file_size)])
        stream.truncate(entry.file_size)


def _first_bytes(repo: str, entry: Any, count: int) -> bytes:
    """The file's first bytes; a server that ignores the range is not read to the end."""
    from huggingface_hub import get_session, hf_hub_url
    from huggingface_hub.utils import build_hf_headers, hf_raise_for_status

    url = hf_hub_url(repo, entry.filename, revision=entry.commit_hash)
    headers = {**build_hf_headers(), "Range": f"bytes=0-{count - 1}", "Accept-Encoding": "identity"}
    found = b""
    with get_session().stream("GET", url, headers=headers, follow_redirects=True) as response:
        hf_raise_for_status(response)
        for block in response.iter_bytes():
            found += block
            if len(found) >= count:
                break
    return found[:count]
