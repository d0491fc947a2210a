"""Hostile, damaged and foreign archives: refused before anything appears."""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest

from common.errors import UserError
from toolchain.trust.archive import header as archive_header
from toolchain.trust.archive import read_members
from toolchain.trust.pack import unpack

DATA = b"weights"
SUMS = f"{hashlib.sha256(DATA).hexdigest()}  model.gguf\n".encode()
Add = Callable[[tarfile.TarFile], None]


def member(name: str, data: bytes = b"", **settings: object) -> Add:
    def add(tar: tarfile.TarFile) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for key, value in settings.items():
            setattr(info, key, value)
        tar.addfile(info, io.BytesIO(data))

    return add


GOOD = (member("b/SHA256SUMS", SUMS), member("b/model.gguf", DATA))


def tar_of(path: Path, *adds: Add, form: int = tarfile.USTAR_FORMAT) -> Path:
    with tarfile.open(path, "w", format=form) as tar:
        for add in adds:
            add(tar)
    return path


HOSTILE = {
    "absolute": member("/etc/passwd", b"x"),
    "parent": member("b/../../up", b"x"),
    "parent_folder": member("../b", type=tarfile.DIRTYPE),
    "dot": member("b/./model2", b"x"),
    "backslash": member("b/..\\up", b"x"),
    "symlink": member("b/tokenizer", type=tarfile.SYMTYPE, linkname="/etc"),
    "hardlink": member("b/x", type=tarfile.LNKTYPE, linkname="b/model.gguf"),
    "device": member("b/x", type=tarfile.CHRTYPE),
    "pipe": member("b/x", type=tarfile.FIFOTYPE),
    "sparse": member("b/x", type=tarfile.GNUTYPE_SPARSE),
    "duplicate": member("b/model.gguf", DATA),
    "second_folder": member("c/x", b"x"),
    "no_folder": member("x", b"x"),
    "file_and_folder": member("b/model.gguf/x", b"x"),
    "log": member("b/log/smoke.json", b"{}"),
    "oversized_sums": member("b/model.sig", bytes((1 << 24) + 1)),
    "escape": member("b/\x1b[2J", b"x"),
    "line_break": member("b/a\nb", b"x"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_members_are_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    file = tar_of(tmp_path / "x.tar", *GOOD, HOSTILE[name])
    with pytest.raises(UserError, match="is refused: "):
        unpack(file, tmp_path / "out" / "deep")
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


@pytest.mark.parametrize(
    ("adds", "reason"),
    [
        ((*GOOD, member("b/more", b"x")), "no whole bundle"),
        (GOOD[:1], "no whole bundle"),
        (GOOD[1:], "it has no SHA256SUMS"),
        ((GOOD[0], member("b/model.gguf", b"weightz")), "is damaged: model.gguf"),
        ((member("b/SHA256SUMS", b"nonsense\n"), GOOD[1]), "has a bad line"),
        ((member("b/SHA256SUMS", SUMS + SUMS), GOOD[1]), "has a bad line"),
        ((member("b/SHA256SUMS", SUMS.replace(b"model", b"../el"))), "has a bad line"),
    ],
    ids=["uncovered", "missing", "no_sums", "damaged", "no_list", "named_twice", "leads_out"],
)
def test_a_bundle_that_is_not_whole_is_refused(
    adds: tuple[Add, ...] | Add, reason: str, tmp_path: Path
) -> None:
    file = tar_of(tmp_path / "x.tar", *(adds if isinstance(adds, tuple) else (adds,)))
    with pytest.raises(UserError, match=reason):
        unpack(file, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar"]


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = tar_of(tmp_path / "x.tar", *GOOD).read_bytes()
    end = 4 * 512  # two headers, two blocks of data; zeroes follow
    for length in (0, 1, 511, 512, 513, 1023, 1024, 1536, end - 505, end - 1, end):
        cut = tmp_path / "cut.tar"
        cut.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut short|empty"):
            unpack(cut, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_damaged_headers_and_other_files_are_refused(tmp_path: Path) -> None:
    whole = bytearray(tar_of(tmp_path / "x.tar", *GOOD).read_bytes())
    whole[3] ^= 1
    (tmp_path / "x.tar").write_bytes(whole)
    with pytest.raises(UserError, match="damaged at byte 0"):
        read_members(tmp_path / "x.tar")
    (tmp_path / "zip").write_bytes(b"PK\3\4" + bytes(2000))
    with pytest.raises(UserError, match="no tar file"):
        read_members(tmp_path / "zip")


def test_announced_sizes_are_held_against_the_file_and_the_limit(tmp_path: Path) -> None:
    info = tarfile.TarInfo("b/model.gguf")
    info.size = 1 << 50
    file = tmp_path / "x.tar"
    file.write_bytes(info.tobuf(tarfile.GNU_FORMAT) + bytes(4096))
    with pytest.raises(UserError, match=f"cut short: {1 << 50} bytes are announced"):
        read_members(file)
    tar_of(file, *GOOD)
    with pytest.raises(UserError, match="oversized"):
        unpack(file, tmp_path / "out", most_bytes=len(SUMS) + 3)


def test_extended_headers_cost_no_memory(tmp_path: Path) -> None:
    long = member(f"b/{'n' * 200}", b"x")
    for form in (tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        with pytest.raises(UserError, match="is an extended header"):
            read_members(tar_of(tmp_path / "x.tar", *GOOD, long, form=form))


def test_what_tar_itself_makes_of_a_bundle_is_taken(tmp_path: Path) -> None:
    folder = member("b", type=tarfile.DIRTYPE, mode=0o755)
    assert unpack(tar_of(tmp_path / "x.tar", folder, *GOOD), tmp_path / "out").is_dir()
    assert (tmp_path / "out" / "model.gguf").read_bytes() == DATA


def test_more_than_8_gib_is_announced_as_it_is() -> None:
    header = archive_header("b/big", (1 << 33) + 5)
    info = tarfile.TarInfo.frombuf(header, "utf-8", "strict")
    assert (info.name, info.size) == ("b/big", (1 << 33) + 5)
