"""A bundle as one tar file: written the same way every time, read with distrust.

    members = read_members(Path("demo-laptop.tar"))

Only plain files and folders in plain ustar headers are read (a size over 8 GiB in GNU's form): no
links, devices, sparse files or extended headers. So nothing unpacks to more than lies in the file,
and headers cost no memory. Every header is looked at before a byte is written anywhere.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

from common.errors import UserError
from toolchain.trust.sums import MOST_SUMS_BYTES, SIGNATURE_FILE, SUMS_FILE, is_inside

SUFFIX = ".tar"
MOST_BYTES = 1 << 40
_BLOCK_BYTES = 1 << 20
_MOST_MEMBERS = 10_000
_MOST_NAME_BYTES = 100  # of the one name field that all forms of tar have
_MOST_BYTES_OF = {SUMS_FILE: MOST_SUMS_BYTES, SIGNATURE_FILE: 1 << 24}
_USTAR_SIZE = 1 << 33
_FILE_TYPES = (tarfile.REGTYPE, tarfile.AREGTYPE)
_AGAIN = "take only files that `edgeforge bundle pack` made; copy it again if it was cut short"


@dataclass(frozen=True)
class Member:
    """A file in the archive: where its bytes begin and how many there are."""

    name: str
    offset: int
    size_bytes: int


def write_archive(files: dict[str, Path], prefix: str, out: BinaryIO) -> int:
    """Write files under `prefix/` in the order of their names; how many bytes.

    Times, owners and modes are fixed, so the same files give the same bytes. Raises `UserError`
    when a file changes its size meanwhile.
    """
    written = 0
    for name in sorted(files, key=lambda name: (name != SUMS_FILE, name)):
        size = files[name].stat().st_size
        written += out.write(header(f"{prefix}/{name}", size))
        with files[name].open("rb") as source:
            copied = _copy(source, size, out.write)
        if copied != size or files[name].stat().st_size != size:
            raise UserError(f"{files[name]} changed while it was packed", "pack it again")
        written += size + out.write(bytes(-size % tarfile.BLOCKSIZE))
    return written + out.write(bytes(2 * tarfile.BLOCKSIZE))


def read_members(archive: Path, most_bytes: int = MOST_BYTES) -> tuple[str, dict[str, Member]]:
    """The folder that the archive holds, and its files by their names in it.

    Raises `UserError` for whatever else the archive holds, and when it is cut short.
    """
    members: dict[str, Member] = {}
    prefix = ""
    for info, offset in _headers(archive):
        if info.type not in (*_FILE_TYPES, tarfile.DIRTYPE):
            _refuse(archive, f"{info.name} is {_kind(info)}; only plain files are unpacked")
        _require_inside(archive, info.name)
        top, _, name = info.name.partition("/")
        if prefix and top != prefix:
            _refuse(archive, f"it holds more than one folder: {prefix} and {top}")
        prefix = top
        if info.type == tarfile.DIRTYPE:
            continue
        if not name or not is_inside(name):
            _refuse(archive, f"{info.name} belongs into no bundle")
        if name in members:
            _refuse(archive, f"{info.name} is there twice")
        if info.size > _MOST_BYTES_OF.get(name, most_bytes):
            _refuse(archive, f"{info.name} is oversized ({info.size} bytes)")
        members[name] = Member(name, offset, info.size)
        if len(members) > _MOST_MEMBERS:
            _refuse(archive, f"it holds more than {_MOST_MEMBERS} files")
    total = sum(member.size_bytes for member in members.values())
    if total > most_bytes:
        _refuse(archive, f"it is oversized: {total} bytes, at most {most_bytes} are taken")
    _refuse_overlaps(archive, members)
    return prefix, members


def blocks(archive: BinaryIO, member: Member) -> Iterator[bytes]:
    """The member's bytes, block by block. Raises `UserError` when the file has become shorter."""
    archive.seek(member.offset)
    left = member.size_bytes
    while left:
        block = archive.read(min(left, _BLOCK_BYTES))
        if not block:
            raise UserError(f"{member.name} is cut short in the archive", _AGAIN)
        left -= len(block)
        yield block


def _headers(archive: Path) -> Iterator[tuple[tarfile.TarInfo, int]]:
    """Every header with where its data begin; a `UserError` for a broken one or a cut file."""
    total = archive.stat().st_size
    with archive.open("rb") as stream:
        position = 0
        while True:
            block = stream.read(tarfile.BLOCKSIZE)
            position += len(block)
            if len(block) < tarfile.BLOCKSIZE:
                _refuse(archive, "it is cut short" if position else "it is empty")
            if not any(block):
                return
            try:
                info = tarfile.TarInfo.frombuf(block, "utf-8", "strict")
            except (tarfile.TarError, UnicodeDecodeError, ValueError):
                at = position - tarfile.BLOCKSIZE
                _refuse(archive, f"it is no tar file, or damaged at byte {at}")
            if info.size < 0 or position + info.size > total:
                _refuse(archive, f"{info.name} is cut short: {info.size} bytes are announced")
            yield info, position
            position += info.size + -info.size % tarfile.BLOCKSIZE
            stream.seek(position)


def _require_inside(archive: Path, name: str) -> None:
    parts = name.rstrip("/").split("/")
    if name.startswith("/") or not all(parts) or {".", ".."} & set(parts) or "\\" in name:
        _refuse(archive, f"{name!r} leads outside of its folder")
    if not name.isprintable():
        _refuse(archive, f"{name!r} is no name for a file")


def _refuse_overlaps(archive: Path, members: dict[str, Member]) -> None:
    """A file may not also be the folder of another."""
    for name in members:
        parts = name.split("/")
        for length in range(1, len(parts)):
            if "/".join(parts[:length]) in members:
                _refuse(archive, f"{'/'.join(parts[:length])} is a file and a folder")


def _refuse(archive: Path, reason: str) -> NoReturn:
    raise UserError(f"{archive} is refused: {reason}", _AGAIN)


def _kind(info: tarfile.TarInfo) -> str:
    if info.issym() or info.islnk():
        return "a link"
    if info.isdev():
        return "a device or pipe"
    return "an extended header or something other than a file"


def header(name: str, size: int) -> bytes:
    """The header of a plain file, with nothing in it that differs between machines."""
    if len(name.encode()) > _MOST_NAME_BYTES:
        raise UserError(f"{name} is too long a name for the archive", "shorten the bundle's names")
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = size, 0o644, 0
    big = size >= _USTAR_SIZE
    return info.tobuf(tarfile.GNU_FORMAT if big else tarfile.USTAR_FORMAT, "utf-8", "strict")


def _copy(source: BinaryIO, size: int, write: Callable[[bytes], object]) -> int:
    copied = 0
    while copied < size and (block := source.read(min(_BLOCK_BYTES, size - copied))):
        write(block)
        copied += len(block)
    return copied
