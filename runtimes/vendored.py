"""llama.cpp's own Python tools and headers, of exactly the revision of the runtime.

llama.cpp's converter is in no wheel, but in llama-cpp-python's sdist, from which the runtime is
built too. Set-up takes it out of there (`unpack_llama_cpp`): the files named in
`llama_cpp_files.sha256` and no others, each checked by its digest. The headers under `vendor/` are
those that a build of Ollama from its Go module lacks.
"""

from __future__ import annotations

import hashlib
import sys
import tarfile
from pathlib import Path, PurePosixPath
from typing import IO

from common.errors import UserError
from common.files import folder_in_the_making, write_text

FILES = Path(__file__).with_name("llama_cpp_files.sha256")
STAMP = ".files.sha256"
_PLACE = Path("share", "edgeforge", "llama.cpp")
_IN_SDIST = PurePosixPath("vendor", "llama.cpp")


def llama_cpp_folder(prefix: Path | None = None) -> Path:
    """The folder with `convert_hf_to_gguf.py`, `conversion/` and `gguf-py/`.

    `prefix` is the environment's root, this one's by default. Only the stamp that set-up left is
    compared (the digest of the list of pinned digests); `damaged_files` reads every file.
    Raises `UserError` when the folder is absent or was taken from another revision.
    """
    folder = (prefix or Path(sys.prefix)) / _PLACE
    try:
        stamp = (folder / STAMP).read_text(encoding="utf-8").strip()
    except OSError:
        raise UserError(
            f"llama.cpp's converter is missing: {folder} is absent or incomplete", "make setup"
        ) from None
    if stamp != _pin():
        raise UserError(
            f"llama.cpp's converter in {folder} is not the pinned revision "
            f"(its list of files is {stamp[:12]}…, wanted {_pin()[:12]}…)",
            "make setup",
        )
    return folder


def damaged_files(prefix: Path | None = None) -> list[str]:
    """Names of pinned files that are missing or whose bytes changed: every file is read."""
    folder = (prefix or Path(sys.prefix)) / _PLACE
    return [
        name
        for name, digest in pinned_files().items()
        if not (folder / name).is_file() or _sha256((folder / name).read_bytes()) != digest
    ]


def pinned_files() -> dict[str, str]:
    """Relative path to hex SHA-256, as `sha256sum` lists them."""
    rows = (line.split("  ", 1) for line in FILES.read_text(encoding="utf-8").splitlines())
    return {name: digest for digest, name in rows}


def unpack_llama_cpp(sdist: Path, prefix: Path) -> Path:
    """Take the pinned files out of llama-cpp-python's sdist (a .tar.gz) into the environment.

    Every file is checked before the folder is moved into place. Raises `UserError` for a file that
    is missing or differs. Returns the folder.
    """
    folder = prefix / _PLACE
    with folder_in_the_making(folder) as partial:
        missing = pinned_files()
        with tarfile.open(sdist, "r:gz") as archive:
            for member in archive:
                name = _relative(member.name)
                if not member.isfile() or name not in missing:
                    continue
                stream = archive.extractfile(member)
                assert stream is not None  # a regular file has a stream
                _take(stream, partial / name, missing.pop(name), sdist)
        if missing:
            raise UserError(f"{sdist.name} lacks {len(missing)} pinned files, e.g. {min(missing)}")
        write_text(partial / STAMP, _pin() + "\n")
    return folder


def _take(stream: IO[bytes], target: Path, digest: str, sdist: Path) -> None:
    content = stream.read()
    if _sha256(content) != digest:
        raise UserError(
            f"{target.name} in {sdist.name} does not have the pinned digest {digest[:12]}…",
            f"after a change of llama-cpp-python's version, renew {FILES.name}",
        )
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)


def _relative(member: str) -> str:
    """A member's path below `<sdist>/vendor/llama.cpp`, or nothing when it lies elsewhere."""
    path = PurePosixPath(*PurePosixPath(member).parts[1:])
    return path.relative_to(_IN_SDIST).as_posix() if path.is_relative_to(_IN_SDIST) else ""


def _pin() -> str:
    return _sha256(FILES.read_bytes())


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
