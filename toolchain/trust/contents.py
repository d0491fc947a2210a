"""What a bundle is made of, whether it is a folder or a packed file: names, bytes, digests.

with open_contents(Path("demo-laptop.tar")) as contents:
    manifest = contents.json("manifest.json")
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from common.errors import UserError
from toolchain.trust.archive import Member, blocks, read_members
from toolchain.trust.sums import SIGNATURE_FILE, SUMS_FILE, parse_sums, read_sums, sums_faults

_MOST_JSON_BYTES = 1 << 26


class Contents(Protocol):
    """A bundle's files, named by their paths in it."""

    @property
    def signed(self) -> bool: ...

    @property
    def sums(self) -> dict[str, str]:
        """SHA256SUMS as it stands. Raises `UserError` when there is none."""
        ...

    def faults(self) -> list[str]:
        """Every file that is not as SHA256SUMS says."""
        ...

    def size_bytes(self, name: str) -> int | None: ...

    def json(self, name: str) -> Any:
        """A file's JSON; None when it is missing or no JSON."""
        ...


@dataclass(frozen=True)
class Folder:
    """A bundle as a folder."""

    path: Path

    @property
    def signed(self) -> bool:
        return (self.path / SIGNATURE_FILE).is_file()

    @property
    def sums(self) -> dict[str, str]:
        return read_sums(self.path)

    def faults(self) -> list[str]:
        return sums_faults(self.path, self.sums)

    def size_bytes(self, name: str) -> int | None:
        file = self.path / name
        return file.stat().st_size if file.is_file() else None

    def json(self, name: str) -> Any:
        size = self.size_bytes(name)
        if size is None or size > _MOST_JSON_BYTES:
            return None
        return _parsed((self.path / name).read_bytes())


@dataclass(frozen=True)
class Packed:
    """A bundle in an archive that is open for reading."""

    path: Path
    prefix: str
    members: dict[str, Member]
    stream: BinaryIO

    @property
    def signed(self) -> bool:
        return SIGNATURE_FILE in self.members

    @property
    def sums(self) -> dict[str, str]:
        if SUMS_FILE not in self.members:
            raise UserError(f"{self.path} holds no bundle: it has no {SUMS_FILE}", "pack it again")
        return parse_sums(self.read(SUMS_FILE), f"{SUMS_FILE} in {self.path}")

    def faults(self) -> list[str]:
        faults, sums = self.not_covered(), self.sums
        for name, digest in sums.items():
            if name not in self.members:
                faults.append(f"{name} is missing")
            elif self._digest(name) != digest:
                faults.append(f"{name} is damaged: its digest is not the one in {SUMS_FILE}")
        return sorted(faults)

    def not_covered(self) -> list[str]:
        """Files that SHA256SUMS does not name."""
        known = {SUMS_FILE, SIGNATURE_FILE, *self.sums}
        return [f"{name} is not covered by {SUMS_FILE}" for name in self.members.keys() - known]

    def size_bytes(self, name: str) -> int | None:
        return self.members[name].size_bytes if name in self.members else None

    def json(self, name: str) -> Any:
        size = self.size_bytes(name)
        return None if size is None or size > _MOST_JSON_BYTES else _parsed(self.read(name))

    def read(self, name: str) -> bytes:
        """A small file's bytes."""
        return b"".join(blocks(self.stream, self.members[name]))

    def _digest(self, name: str) -> str:
        digest = hashlib.sha256()
        for block in blocks(self.stream, self.members[name]):
            digest.update(block)
        return digest.hexdigest()


@contextlib.contextmanager
def open_contents(path: Path) -> Iterator[Folder | Packed]:
    """The bundle at `path`. Raises `UserError` when there is nothing, or a file that is no archive
    of plain files."""
    if path.is_dir():
        yield Folder(path)
    elif path.is_file():
        prefix, members = read_members(path)
        with path.open("rb") as stream:
            yield Packed(path, prefix, members, stream)
    else:
        raise UserError(f"{path} does not exist", "build a bundle first, or check the path")


def _parsed(data: bytes) -> Any:
    try:
        return json.loads(data)
    except (ValueError, RecursionError):
        return None
