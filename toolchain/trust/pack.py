"""One file from a bundle, and the bundle from the file.

packed = pack(Path("build/edgeforge-demo/laptop"), Path("demo-laptop.tar"))
folder = unpack(packed, Path("demo-laptop"))
"""

from __future__ import annotations

import hashlib
import io
import re
from pathlib import Path
from typing import Any, BinaryIO, cast

from common.errors import UserError
from common.files import file_in_the_making, folder_made_alone, read_json, require_free_bytes
from common.folders import make_folder
from toolchain.trust.archive import MOST_BYTES, SUFFIX, blocks, read_members, write_archive
from toolchain.trust.contents import Packed
from toolchain.trust.sums import SIGNATURE_FILE, SUMS_FILE, read_sums, require_sound, sums_faults

_HEADER_BYTES = 1024


def packed_name(bundle: Path) -> str:
    """<model>-<target>, as the bundle's profile has them."""
    profile = read_json(bundle / "profile.json")
    profile = profile if isinstance(profile, dict) else {}
    text = f"{profile.get('model', bundle.parent.name)}-{profile.get('target', bundle.name)}"
    return re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip(".-")[:60] or "bundle"


def pack(bundle: Path, file: Path) -> Path:
    """Write a sound bundle, without `log/`, as one tar file: the same bytes for the same bundle.

    A file that holds these bytes already is left as it is. Raises `UserError`, and leaves nothing,
    when the bundle is damaged or another file is there.
    """
    sums = require_sound(bundle)
    signature = bundle / SIGNATURE_FILE
    names = [SUMS_FILE, *sums, *([SIGNATURE_FILE] if signature.is_file() else [])]
    files = {name: bundle / name for name in names}
    if file.is_file() and _is_packed(files, packed_name(bundle), file):
        return file
    if file.exists() or file.is_symlink():
        raise UserError(f"{file} is there already", "remove it, or name another file with --to")
    if not file.absolute().parent.is_dir():
        raise UserError(f"folder {file.absolute().parent} does not exist", "make it first")
    size = sum(path.stat().st_size + _HEADER_BYTES for path in files.values())
    require_free_bytes(file.absolute().parent, size, f"packing {bundle}")
    with file_in_the_making(file) as out:
        write_archive(files, packed_name(bundle), out)
    return file


class _Comparison(io.RawIOBase):
    """Takes what is written and compares it with what a stream holds."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream, self.same = stream, True

    def writable(self) -> bool:
        return True

    def write(self, block: Any) -> int:
        self.same = self.same and self._stream.read(len(block)) == bytes(block)
        return len(block)


def _is_packed(files: dict[str, Path], name: str, file: Path) -> bool:
    with file.open("rb") as stream:
        found = _Comparison(stream)
        write_archive(files, name, cast(BinaryIO, found))
        return found.same and not stream.read(1)


def unpack(file: Path, to: Path | None = None, most_bytes: int = MOST_BYTES) -> Path:
    """The bundle of a packed file as a folder (default: the name in it, beside nothing else).

    Everything is checked on the way: nothing appears at the target unless every byte is as
    SHA256SUMS says. A target that is the same bundle already is left as it is. Raises `UserError`.
    """
    if not file.is_file():
        raise UserError(f"packed bundle {file} does not exist", "check the path")
    prefix, members = read_members(file, most_bytes)
    target = to or Path(prefix)
    with file.open("rb") as stream:
        packed = Packed(file, prefix, members, stream)
        sums = packed.sums
        faults = [f"{name} is missing" for name in sums if name not in members]
        if faults := [*packed.not_covered(), *faults]:
            raise UserError(f"{file} holds no whole bundle", "pack it again", details=faults)
        if target.exists() or target.is_symlink():
            return _same_bundle(target, packed)
        size = sum(member.size_bytes for member in members.values())
        require_free_bytes(target.absolute().parent, size, f"unpacking {file}")
        with folder_made_alone(target) as partial:
            for name in sorted(members):
                _extract(packed, name, partial / name, sums.get(name))
            if target.exists():
                raise UserError(
                    f"{target} has appeared meanwhile", "unpack again with another --to"
                )
    return target


def _extract(packed: Packed, name: str, path: Path, digest: str | None) -> None:
    """Write one member; a `UserError` when its bytes are not those of its digest."""
    make_folder(path.parent)
    found = hashlib.sha256()
    with path.open("xb") as out:
        for block in blocks(packed.stream, packed.members[name]):
            found.update(block)
            out.write(block)
    path.chmod(0o644)
    if digest is not None and found.hexdigest() != digest:
        raise UserError(
            f"{packed.path} is damaged: {name} is not as {SUMS_FILE} says; nothing was unpacked",
            "copy or pack it again",
        )


def _same_bundle(target: Path, packed: Packed) -> Path:
    """The target, when it holds exactly what would be unpacked."""
    taken = UserError(
        f"{target} is there already and is not this bundle", "name another folder with --to"
    )
    if target.is_symlink() or not (target / SUMS_FILE).is_file():
        raise taken
    if (target / SUMS_FILE).read_bytes() != packed.read(SUMS_FILE):
        raise taken
    if sums_faults(target, read_sums(target)):
        raise taken
    return target


__all__ = ["SUFFIX", "pack", "packed_name", "unpack"]
