"""What has its final name is on the disk: files and folders are synced before they are renamed, and
the folders that name them after."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command_line import ROOT
from journeys import Proven, contents
from moments import Calm, prefilled, temporary_of

from common.files import folder_in_the_making, write_text

pytestmark = pytest.mark.timeout(3600)  # where other work takes the cores

_CALLS = "fsync,fdatasync,rename,renameat,renameat2,mkdir,mkdirat"
_AT = r"(?:AT_FDCWD[^,]*, )?"
_SYNC = re.compile(r"\b(?:fsync|fdatasync)\(\d+<(.*)>\)\s+= 0$")
_RENAME = re.compile(
    rf'\brename(?:at2?)?\({_AT}"(.*?)", {_AT}"(.*?)"(, RENAME_EXCHANGE)?.*\)\s+= 0$'
)
_MKDIR = re.compile(rf'\bmkdir(?:at)?\({_AT}"(.*?)", \d+\)\s+= 0$')
_CUT, _RESUMED = " <unfinished ...>", re.compile(r"^<\.\.\. \w+ resumed>")
# Files whose loss costs nothing: locks.
_LOSABLE = {".lock"}


class Disk:
    """What a power loss would leave, as the calls of a process tell: synced files, and folders
    whose names are not synced."""

    def __init__(self) -> None:
        self.synced: set[str] = set()
        self.dirty: set[str] = set()

    def sync(self, path: str) -> None:
        self.synced.add(path)
        self.dirty.discard(path)

    def make(self, path: str) -> None:
        self.dirty.add(str(Path(path).parent))

    def rename(self, source: str, target: str, *, exchange: bool = False) -> None:
        there = {path for path in self.synced if _under(path, target)}
        moved = {path for path in self.synced if _under(path, source)}
        self.synced -= there | moved
        self.synced |= {target + path[len(source) :] for path in moved}
        if exchange:
            self.synced |= {source + path[len(target) :] for path in there}
        self.dirty = {path for path in self.dirty if not _under(path, source)}
        self.dirty.add(str(Path(target).parent))


def _under(path: str, folder: str) -> bool:
    return path == folder or path.startswith(f"{folder}/")


@contextmanager
def watched(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Names of what was synced, and of what was renamed to what, in order; the calls are real."""
    calls: list[str] = []
    sync, replace, rename, mkdir = os.fsync, os.replace, os.rename, os.mkdir

    def fsync(handle: int) -> None:
        calls.append(f"sync {Path(f'/proc/self/fd/{handle}').readlink().name}")
        sync(handle)

    def renamed(call: Callable[..., None]) -> Callable[..., None]:
        def noted(source: os.PathLike[str], target: os.PathLike[str]) -> None:
            calls.append(f"{Path(source).name} > {Path(target).name}")
            call(source, target)

        return noted

    def made(path: os.PathLike[str], *more: int) -> None:
        calls.append(f"make {Path(path).name}")
        mkdir(path, *more)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        patch.setattr(os, "replace", renamed(replace))
        patch.setattr(os, "rename", renamed(rename))
        patch.setattr(os, "mkdir", made)
        yield calls


def test_a_file_is_synced_and_then_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with watched(monkeypatch) as calls:
        write_text(tmp_path / "it", "text")
    assert calls == ["sync .it.partial", ".it.partial > it", f"sync {tmp_path.name}"]


def test_a_folder_is_synced_whole_and_then_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    final = tmp_path / "new" / "deep" / "it"
    with watched(monkeypatch) as calls, folder_in_the_making(final) as partial:
        assert calls[:4] == ["make new", f"sync {tmp_path.name}", "make deep", "sync new"]
        (partial / "a").write_text("a")
        (partial / "sub").mkdir()
        (partial / "sub" / "b").write_text("b")
        del calls[:]
    assert calls[-2:] == [".it.partial > it", "sync deep"]
    assert sorted(calls[:-3]) == ["sync a", "sync b", "sync sub"]
    assert calls[-3] == "sync .it.partial"


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
@pytest.mark.parametrize("name", ["unpack", "gguf"])
def test_a_run_as_the_kernel_sees_it(
    name: str, calm: Callable[[str], Calm], whole: bool, tmp_path: Path, proven: Proven
) -> None:
    if name == "gguf" and not whole:
        pytest.skip("in the whole suite")
    start, quiet, out = time.monotonic(), calm(name), tmp_path / "out"
    prefilled(quiet, quiet.moments[0], out)
    temporary_of(out).mkdir()
    before = set(out.rglob("*"))
    log = tmp_path / "strace.log"
    command = ["strace", "-f", "-y", "-s", "4096", "--seccomp-bpf", "-e", f"trace={_CALLS}"]
    command += ["-o", str(log), sys.executable, "-m", "toolchain"]
    done = subprocess.run(
        [*command, *map(str, quiet.journey.words(out))],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary_of(out))},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert contents(quiet.journey.result(out)) == quiet.contents
    disk = _read(log)
    made = [path for path in out.rglob("*") if path not in before and path.name not in _LOSABLE]
    files = [path for path in made if path.is_file()]
    assert files and [str(path) for path in files if str(path) not in disk.synced] == []
    assert [path for path in disk.dirty if _under(path, str(out))] == []
    seconds = time.monotonic() - start
    proven("1 crashes", f"synced before it is named: {name}", len(files), "files", seconds)


def _read(log: Path) -> Disk:
    disk = Disk()
    for line in _calls(log):
        if hit := _SYNC.search(line):
            disk.sync(_plain(hit[1]))
        elif hit := _RENAME.search(line):
            disk.rename(_plain(hit[1]), _plain(hit[2]), exchange=bool(hit[3]))
        elif hit := _MKDIR.search(line):
            disk.make(_plain(hit[1]))
    return disk


def _calls(log: Path) -> Iterator[str]:
    """The calls in the order of their ends; what strace cut in two is put together."""
    begun: dict[str, str] = {}
    for line in log.read_text("ascii").splitlines():
        process, _, call = line.partition(" ")
        call = call.lstrip()
        if call.endswith(_CUT):
            begun[process] = call.removesuffix(_CUT)
        elif hit := _RESUMED.match(call):
            yield begun.pop(process) + call[hit.end() :]
        else:
            yield call


def _plain(name: str) -> str:
    """A name as it is; strace spells bytes that are no ASCII in octal."""
    return name.encode("ascii").decode("unicode_escape").encode("latin-1").decode()
