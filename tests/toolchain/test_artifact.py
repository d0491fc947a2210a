"""Artifacts describe themselves completely."""

from pathlib import Path

import pytest

from common.errors import UserError
from toolchain import artifact as artifacts


def make(folder: Path, content: str = "weights") -> artifacts.Artifact:
    folder.mkdir(parents=True)
    (folder / "model.gguf").write_text(content)
    return artifacts.describe(folder, format="gguf", stage="convert", measurements={"n": 1})


def test_round_trip(tmp_path: Path) -> None:
    made = make(tmp_path / "a")
    read = artifacts.load(tmp_path / "a")
    assert read == made
    assert read.only(".gguf") == tmp_path / "a" / "model.gguf"


def test_digest_follows_content_not_place(tmp_path: Path) -> None:
    one, same, other = (
        make(tmp_path / "a"),
        make(tmp_path / "b"),
        make(tmp_path / "c", "other weights"),
    )
    assert one.digest == same.digest != other.digest


def test_damage_is_found(tmp_path: Path) -> None:
    made = make(tmp_path / "a")
    assert made.damaged_files() == []
    (tmp_path / "a" / "model.gguf").write_text("weighty")
    assert made.damaged_files() == ["model.gguf"]


def test_missing_file_and_foreign_description(tmp_path: Path) -> None:
    made = make(tmp_path / "a")
    with pytest.raises(UserError, match=r"has no file 'x\.bin'"):
        made.file("x.bin")
    (tmp_path / "a" / "artifact.json").write_text('{"schema": 99}')
    with pytest.raises(UserError, match="not an artifact description of this version"):
        artifacts.load(tmp_path / "a")
