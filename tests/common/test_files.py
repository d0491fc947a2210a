"""Durable files: complete or absent."""

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from common.errors import UserError
from common.files import (
    file_in_the_making,
    folder_in_the_making,
    folder_made_alone,
    read_json,
    require_free_bytes,
    reserve,
    write_json,
)


def test_folder_appears_only_when_complete(tmp_path: Path) -> None:
    final = tmp_path / "result"
    with folder_in_the_making(final) as partial:
        (partial / "a.txt").write_text("a")
        assert not final.exists()
    assert (final / "a.txt").read_text() == "a"
    assert [p.name for p in tmp_path.iterdir()] == ["result"]


def test_failure_keeps_what_was_finished_before(tmp_path: Path) -> None:
    final = tmp_path / "result"
    with folder_in_the_making(final) as partial:
        (partial / "a.txt").write_text("old")
    with pytest.raises(RuntimeError), folder_in_the_making(final) as partial:
        (partial / "a.txt").write_text("new")
        raise RuntimeError
    assert (final / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result"]


def test_leftovers_of_a_killed_process_are_cleared(tmp_path: Path) -> None:
    leftover = tmp_path / ".result.partial"
    leftover.mkdir()
    (leftover / "stale").write_text("half")
    with folder_in_the_making(tmp_path / "result") as partial:
        (partial / "a.txt").write_text("a")
    assert sorted(p.name for p in (tmp_path / "result").iterdir()) == ["a.txt"]
    assert not leftover.exists()


def test_json_round_trip_and_broken_json(tmp_path: Path) -> None:
    write_json(tmp_path / "x.json", {"b": [1], "a": "中"})
    assert read_json(tmp_path / "x.json") == {"a": "中", "b": [1]}
    (tmp_path / "x.json").write_text("{")
    with pytest.raises(UserError, match=r"x\.json cannot be read as JSON"):
        read_json(tmp_path / "x.json")


def test_too_little_disk_is_named(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"not enough disk for the export: .* GB needed"):
        require_free_bytes(tmp_path / "not" / "yet", 1 << 60, "the export")


def test_a_folder_takes_the_place_of_another_at_once(tmp_path: Path) -> None:
    final = tmp_path / "result"
    for text in ("one", "two"):
        with folder_in_the_making(final) as partial:
            (partial / "a.txt").write_text(text)
    assert (final / "a.txt").read_text() == "two"
    assert [p.name for p in tmp_path.iterdir()] == ["result"]


def test_a_folder_that_was_moved_away_comes_back(tmp_path: Path) -> None:
    """A kill between the two renames of a file system that cannot exchange names."""
    (tmp_path / ".result.old").mkdir()
    (tmp_path / ".result.old" / "a.txt").write_text("old")
    with pytest.raises(RuntimeError), folder_in_the_making(tmp_path / "result"):
        raise RuntimeError
    assert (tmp_path / "result" / "a.txt").read_text() == "old"
    assert [p.name for p in tmp_path.iterdir()] == ["result"]


def test_a_reserved_file_has_its_room(tmp_path: Path) -> None:
    for size in (0, 1, 1 << 20):
        reserve(tmp_path / "it", size)
        stat = (tmp_path / "it").stat()
        assert stat.st_size == size and stat.st_blocks * 512 >= size


@pytest.mark.parametrize("making", [file_in_the_making, folder_made_alone])
def test_a_signal_as_a_file_is_opened_leaves_nothing(
    making: Callable[[Path], AbstractContextManager[object]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened: list[Any] = []

    def interrupted(path: Any, *rest: Any) -> int:
        opened.append(path)
        handle = real_open(path, *rest)
        if len(opened) == 1:
            os.close(handle)
            raise KeyboardInterrupt
        return handle

    real_open = os.open
    monkeypatch.setattr("common.locks.os.open", interrupted)
    with pytest.raises(KeyboardInterrupt), making(tmp_path / "it"):
        pytest.fail("it goes on after a signal")
    assert opened and list(tmp_path.iterdir()) == []


_NO_HANDLE_LEFT = """
import os, resource, sys
from pathlib import Path
from common.files import folder_in_the_making
with folder_in_the_making(Path(sys.argv[1])) as partial:
    (partial / "in" / "it").mkdir(parents=True)
    (partial / "in" / "it" / "file").touch()
    (partial / "link").symlink_to(sys.argv[1])
    limit = os.dup(0) + 3
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    kept = [os.dup(0) for _ in range(limit)]
"""


def test_a_folder_goes_where_no_further_file_may_be_open(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _NO_HANDLE_LEFT, str(tmp_path / "it")]
    root = Path(__file__).parents[2]
    done = subprocess.run(
        command, capture_output=True, text=True, cwd=root, stdin=subprocess.DEVNULL
    )
    assert "Too many open files" in done.stderr
    assert list(tmp_path.iterdir()) == []
