"""Several processes at once, on one folder and on what users share."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import stat
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from journeys import JOURNEYS, Given, Proven, left_behind
from moments import PATIENT_SEC, Moment, begin, reach
from processes import alive_in, left_of

from common.files import folder_made_alone, read_json, write_json
from common.locks import only_writer
from common.scratch import ScratchFolder, clear_left_behind
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.digests import CACHE_FILE, FileScans
from toolchain.pipeline import Workspace, run_stage
from toolchain.stage import StageConfig

pytestmark = pytest.mark.timeout(3600)  # where other work takes the cores

_FORK = multiprocessing.get_context("fork")
_NOBODY = 65534
_WRITERS, _ROUNDS = 6, 40
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="another user is needed")


def test_the_second_build_names_the_first(tmp_path: Path, proven: Proven) -> None:
    (tmp_path / "given").mkdir()
    journey, out = JOURNEYS["gguf"](Given(tmp_path / "given")), tmp_path / "out"
    out.mkdir()
    working = Moment("convert", 1, 0.0)
    first = begin(journey, out)
    assert reach(first, working, 0.0)
    first.signal_all(signal.SIGSTOP)
    second = begin(journey, out).wait(PATIENT_SEC)
    assert second.returncode == 2
    lock = out / "tiny" / ".lock"
    holder = int(lock.read_text())
    assert holder in alive_in(first.pid)
    assert f"another build is writing to {out}/tiny (process {holder})" in second.stderr
    assert "choose another folder" in second.stderr and "Traceback" not in second.stderr
    first.signal_all(signal.SIGKILL)
    first.wait(PATIENT_SEC)
    assert not left_of(first.pid)
    # The lock of the dead names it still; and its number may be another process's by now.
    assert int(lock.read_text()) == holder
    lock.write_text(str(os.getpid()))
    old = {name: (out / name).stat().st_ino for name in left_behind(out)}
    third = begin(journey, out)
    assert reach(third, working, 0.0), third.said
    third.signal_all(signal.SIGTERM)
    assert third.wait(PATIENT_SEC).returncode == 143
    # It may have ended before it came to clear what the dead one left; of its own nothing stays.
    left = left_behind(out)
    assert [name for name in left if old.get(name) != (out / name).stat().st_ino] == []
    proven("3 several at once", "a second build, a stale lock, a number given anew", 3, "cases")


class _Config(StageConfig):
    pass


def _slow(source: Artifact, config: _Config, out_dir: Path) -> Artifact:
    """A stage that takes a moment, and tells who ran it."""
    (out_dir / "half").write_text("half")
    time.sleep(0.3)
    (out_dir / "half").rename(out_dir / "whole")
    with (source.path / "runs").open("a") as stream:
        stream.write(f"{os.getpid()}\n")
    return artifacts.describe(out_dir, format="text", stage="slow")


def _stage() -> SimpleNamespace:
    return SimpleNamespace(NAME="slow", VERSION=1, TOOLS=("pydantic",), run=_slow)


def _run(source: Artifact, root: Path) -> None:
    made = run_stage(_stage(), source, _Config(), Workspace(root), lambda _line: None)
    assert made.damaged_files() == [] and set(made.files) == {"whole"}


def test_a_stage_that_several_want_is_made_once(tmp_path: Path, proven: Proven) -> None:
    (tmp_path / "source").mkdir()
    source = Artifact(tmp_path / "source", "text", {}, "source")
    all_of(_run, _WRITERS, source, tmp_path / "work")
    assert len((tmp_path / "source" / "runs").read_text().splitlines()) == 1
    assert left_behind(tmp_path / "work") == []
    proven("3 several at once", "processes that want the same stage", _WRITERS, "processes")


def test_a_killed_maker_lets_the_next_one_make_it(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    source = Artifact(tmp_path / "source", "text", {}, "source")
    first = _FORK.Process(target=_run, args=(source, tmp_path / "work"))
    first.start()
    stages = tmp_path / "work" / ".stages"
    while not list(stages.glob(".slow-*.partial/half")):
        time.sleep(0.005)
    first.kill()
    first.join()
    assert left_behind(tmp_path / "work") != []
    _run(source, tmp_path / "work")
    assert left_behind(tmp_path / "work") == []


def _write_often(path: Path) -> None:
    for number in range(_ROUNDS):
        write_json(path, {"number": number, "filling": "x" * (1 + 977 * (number % 7))})


def _make_often(folder: Path) -> None:
    for number in range(_ROUNDS // 4):
        with folder_made_alone(folder) as made:
            for name in "abc":
                (made / name).write_text(f"{os.getpid()} {number}")


def test_files_and_folders_that_several_write(tmp_path: Path, proven: Proven) -> None:
    all_of(_write_often, _WRITERS, tmp_path / "it.json")
    assert read_json(tmp_path / "it.json")["number"] == _ROUNDS - 1
    all_of(_make_often, _WRITERS, tmp_path / "made")
    texts = {path.read_text() for path in (tmp_path / "made").iterdir()}
    assert len(texts) == 1  # all of one maker's, in one go
    assert {path.name for path in tmp_path.iterdir()} == {"it.json", "made"}
    count = _WRITERS * (_ROUNDS + _ROUNDS // 4)
    proven("3 several at once", "writes of the same file or folder", count, "writes")


def _scan(cache: Path, files: list[Path], user: int = 0) -> None:
    if user:
        os.setgid(user)
        os.setuid(user)
    for _ in range(4):
        scans = FileScans(cache)
        found = [scans.scan(path).sha256 for path in files]
        scans.save()
        again = FileScans(cache)
        assert [again.scan(path).sha256 for path in files] == found


@pytest.fixture
def shared() -> Iterator[Path]:
    """A folder that every user may write to, as a shared disk has it."""
    with tempfile.TemporaryDirectory(prefix="shared-") as name:
        folder = Path(name)
        folder.chmod(0o777)
        for number in range(8):
            path = folder / f"file-{number}"
            path.write_bytes(bytes([number]) * 100_000)
            os.utime(path, (0, 0))
        yield folder


def test_digests_that_several_remember(shared: Path, proven: Proven) -> None:
    files = sorted(shared.glob("file-*"))
    all_of(_scan, _WRITERS, shared / "cache", files)
    entries = json.loads((shared / "cache" / CACHE_FILE).read_text())["files"]
    assert len(entries) == len(files)
    assert [path.name for path in (shared / "cache").iterdir()] == [CACHE_FILE]
    proven("3 several at once", "processes that share a cache of digests", _WRITERS, "processes")


@needs_root
@pytest.mark.parametrize("mode", [0o777, 0o1777, 0o755], ids=["open", "sticky", "of another"])
def test_digests_of_two_users(shared: Path, mode: int, proven: Proven) -> None:
    files, cache = sorted(shared.glob("file-*")), shared / "cache"
    cache.mkdir()
    cache.chmod(mode)
    _scan(cache, files[:4])
    process = _FORK.Process(target=_scan, args=(cache, files, _NOBODY))
    process.start()
    process.join()
    assert process.exitcode == 0
    _scan(cache, files)
    entries = json.loads((cache / CACHE_FILE).read_text())["files"]
    assert len(entries) == len(files)
    assert [path.name for path in cache.iterdir()] == [CACHE_FILE]
    proven("3 several at once", f"users that share a cache of mode {mode:o}", 2, "users")


def _write_as_nobody(out: Path, answer: Path) -> None:
    os.setgid(_NOBODY)
    os.setuid(_NOBODY)
    try:
        with only_writer(out):
            answer.write_text("written")
    except OSError as error:
        answer.write_text(type(error).__name__)


@needs_root
def test_a_folder_of_another_user_is_refused(shared: Path) -> None:
    with only_writer(shared / "out"):
        pass
    process = _FORK.Process(target=_write_as_nobody, args=(shared / "out", shared / "answer"))
    process.start()
    process.join()
    assert (shared / "answer").read_text() == "PermissionError"


def _hold_scratch(ready: Path) -> None:
    with ScratchFolder("test") as name:
        ready.write_text(name)
        time.sleep(600)


def test_temporary_folders_of_the_dead_go_and_those_of_the_living_stay(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, proven: Proven
) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "tmp"))
    (tmp_path / "tmp").mkdir()
    holders = [_FORK.Process(target=_hold_scratch, args=(tmp_path / str(n),)) for n in range(2)]
    for holder in holders:
        holder.start()
    while not all(
        (tmp_path / str(n)).is_file() and (tmp_path / str(n)).read_text() for n in (0, 1)
    ):
        time.sleep(0.005)
    dead, living = (Path((tmp_path / str(n)).read_text()) for n in range(2))
    assert stat.S_IMODE(dead.stat().st_mode) == 0o700
    holders[0].kill()
    holders[0].join()
    clear_left_behind()
    assert not dead.exists() and living.is_dir()
    holders[1].kill()
    holders[1].join()
    with ScratchFolder("test"):
        assert not living.exists()
    assert list((tmp_path / "tmp").iterdir()) == []
    proven("3 several at once", "temporary folders of killed processes", 2, "folders")


def all_of(target: Callable[..., None], count: int, *arguments: object) -> None:
    """Run the function in so many processes at once; all must end well."""
    processes = [_FORK.Process(target=target, args=arguments) for _ in range(count)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * count
