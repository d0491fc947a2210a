"""`edgeforge teacher-cache`: what it refuses before any work."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from common.errors import UserError
from toolchain.commands import teacher_cache


def _arguments(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    teacher_cache.add_arguments(parser)
    return parser.parse_args(words)


@pytest.mark.parametrize("more", [(), ("--data", "a", "--join", "b")])
def test_rows_or_shares_are_wanted(tmp_path: Path, more: tuple[str, ...]) -> None:
    with pytest.raises(UserError, match="rows that the teacher reads, or folders to join"):
        teacher_cache.run(_arguments("--out", str(tmp_path / "cache"), *more))
    assert not (tmp_path / "cache").exists()


def test_a_folder_without_parts_is_not_joined(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="holds no part of a teacher cache"):
        teacher_cache.run(
            _arguments("--out", str(tmp_path / "cache"), "--join", str(tmp_path / "empty"))
        )
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("share", ["0/4", "5/4", "1", "a/b"])
def test_a_share_is_one_of_all(capsys: pytest.CaptureFixture[str], share: str) -> None:
    with pytest.raises(SystemExit):
        _arguments("--out", "cache", "--data", "rows", "--part", share)
    assert "give I/N with I from 1 to N" in capsys.readouterr().err


def test_settings_of_options() -> None:
    from toolchain.compress.distill.cache.settings import TeacherCache
    from toolchain.settings_options import settings_of

    found = settings_of(
        _arguments("--out", "c", "--top-k", "64", "--temperatures", "1,4"), TeacherCache
    )
    assert (found.top_k, found.temperatures) == (64, (1.0, 4.0))
