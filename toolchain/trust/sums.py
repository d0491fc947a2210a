"""SHA256SUMS of a bundle: written once, held against the files before anything is loaded.

    require_sound(Path("build/edgeforge-demo/laptop"))

It covers every file but itself, the signature (which covers SHA256SUMS in turn) and `log/`, where a
device writes down what it measured. The smoke test, which runs where this package is not, has the
same rule (`verify_sums`).
"""

from __future__ import annotations

import os
import string
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath

from common.errors import UserError
from common.files import can_be_a_file, sha256_file, write_text
from common.resources import explained

SUMS_FILE, SIGNATURE_FILE, LOG_FOLDER = "SHA256SUMS", "model.sig", "log"
MOST_SUMS_BYTES = 1 << 20
_DIGEST_LENGTH = 64
_AGAIN = "copy or build the bundle again"


def require_sound(bundle: Path) -> dict[str, str]:
    """The digests of the bundle's files, each held against its bytes.

    Raises `UserError` that lists every file that is damaged, missing, a link or not covered.
    """
    sums = read_sums(bundle)
    if faults := sums_faults(bundle, sums):
        raise UserError(f"bundle {bundle} is damaged; nothing was loaded", _AGAIN, details=faults)
    return sums


def sums_faults(bundle: Path, sums: Mapping[str, str]) -> list[str]:
    """What is wrong with the bundle's files; empty when all is well."""
    faults, present = [], set()
    for name, linked in _entries(bundle):
        present.add(name)
        if linked:
            faults.append(f"{name} is a link")
        elif name not in sums and name not in (SUMS_FILE, SIGNATURE_FILE):
            faults.append(f"{name} is not covered by {SUMS_FILE}")
        elif name in sums and sha256_file(bundle / name) != sums[name]:
            faults.append(f"{name} is damaged: its digest is not the one in {SUMS_FILE}")
    return sorted([*faults, *(f"{name} is missing" for name in sums if name not in present)])


def read_sums(bundle: Path) -> dict[str, str]:
    """File name → SHA-256. Raises `UserError` when there is no SHA256SUMS or it is no such list."""
    path = bundle / SUMS_FILE
    try:
        if path.stat().st_size > MOST_SUMS_BYTES:
            raise UserError(f"{path} is too large to be a list of digests", _AGAIN)
        return parse_sums(path.read_bytes(), str(path))
    except OSError as error:
        raise explained(error) or UserError(
            f"{bundle} is no bundle: it has no {SUMS_FILE}", _AGAIN
        ) from None


def parse_sums(data: bytes, origin: str) -> dict[str, str]:
    """A SHA256SUMS in coreutils' format, every name inside the bundle and named once."""
    try:
        lines = data.decode("utf-8").splitlines()
    except UnicodeDecodeError:
        raise UserError(f"{origin} is no text", _AGAIN) from None
    sums: dict[str, str] = {}
    for line in lines:
        digest, _, name = line.partition("  ")
        if not _is_digest(digest) or not is_inside(name) or name in sums:
            raise UserError(f"{origin} has a bad line: {line[:120]!r}", _AGAIN)
        sums[name] = digest
    return sums


def write_sums(folder: Path) -> None:
    """SHA256SUMS of a bundle, for `sha256sum -c SHA256SUMS`."""
    lines = [f"{digest}  {name}\n" for name, digest in digests(folder).items()]
    write_text(folder / SUMS_FILE, "".join(lines))


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file that SHA256SUMS is to cover."""
    return {
        path.relative_to(folder).as_posix(): sha256_file(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and is_covered(path.relative_to(folder).as_posix())
    }


def is_covered(name: str) -> bool:
    """Whether SHA256SUMS is to have this file."""
    inside_log = PurePosixPath(name).parts[:1] == (LOG_FOLDER,)
    return not inside_log and name not in (SUMS_FILE, SIGNATURE_FILE)


def is_inside(name: str) -> bool:
    """Whether a name is that of a file below its folder, written the one plain way, and a file can
    have it."""
    path = PurePosixPath(name)
    plain = str(path) == name and path.parts[:1] not in ((), (LOG_FOLDER,))
    return plain and not path.is_absolute() and ".." not in path.parts and can_be_a_file(name)


def _entries(bundle: Path) -> Iterator[tuple[str, bool]]:
    """Every file's name and whether it is a link (or no regular file); `log/` is passed over."""
    for folder, folders, files in os.walk(bundle):
        here = Path(folder)
        if here == bundle and not (here / LOG_FOLDER).is_symlink():
            folders[:] = [name for name in folders if name != LOG_FOLDER]
        linked = [name for name in folders if (here / name).is_symlink()]
        for name in [*files, *linked]:
            path = here / name
            yield path.relative_to(bundle).as_posix(), path.is_symlink() or not path.is_file()


def _is_digest(text: str) -> bool:
    return len(text) == _DIGEST_LENGTH and set(text) <= set(string.hexdigits.lower())
