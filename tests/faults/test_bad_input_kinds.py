"""Every verb, every kind of bad input: one clear line, a hint, exit code 2, nothing half-made."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from bad_inputs import KINDS, Kind, Place, good_inputs
from command_line import edgeforge

from toolchain.cli import VERBS

SEED, QUICK = 7, 8
_COMMANDS = set(map(chr, (*range(9), *range(14, 32), 127, 0x202E)))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return good_inputs(tmp_path_factory.mktemp("good"))


def test_there_are_kinds_of_every_verb() -> None:
    verbs = {kind.name.split()[0] for kind in KINDS}
    assert set(VERBS) <= verbs
    names = [kind.name for kind in KINDS]
    assert len(names) == len(set(names)) >= 60


@pytest.mark.timeout(3600)
def test_bad_input_gets_one_clear_error(
    good: Path, tmp_path: Path, whole: bool, proven: Callable[..., None]
) -> None:
    start = time.monotonic()
    chosen = KINDS if whole else random.Random(SEED).sample(KINDS, QUICK)
    before = _files(good)
    faults = {}
    for number, kind in enumerate(chosen):
        own = tmp_path / str(number)
        own.mkdir()
        if found := _faults(kind, Place(good, own)):
            faults[kind.name] = found
    assert not faults, "\n".join(f"{name}: {found}" for name, found in faults.items())
    assert _files(good) == before
    proven("5 bad input", "kinds, every verb", len(chosen), "kinds", time.monotonic() - start)


def _faults(kind: Kind, place: Place) -> list[str]:
    """What is wrong with the answer."""
    words = kind.words(place)
    given = _files(place.own)
    done = edgeforge(*words, cwd=place.own)
    said, faults = done.stderr, []
    if done.returncode != 2:
        faults.append(f"exit code {done.returncode}")
    if "Traceback" in said + done.stdout:
        faults.append("a traceback")
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    if len(errors) != 1:
        faults.append(f"{len(errors)} errors")
    if not re.search(kind.names, said):
        faults.append(f"does not name {kind.names}")
    if "\nhint: " not in said:
        faults.append("no hint")
    if commands := set(said + done.stdout) & _COMMANDS:
        faults.append(f"commands to the terminal: {commands!r}")
    left = {file for file in _files(place.own) - given if not _whole(place.own / file)}
    if left or list(place.own.rglob("*.partial")) or list(place.own.rglob("PWNED")):
        faults.append(f"left behind: {sorted(left)[:4]}")
    return [*faults, said[-700:]] if faults else []


def _whole(file: Path) -> bool:
    """Whether a file that stays is a finished thing that the next build uses: a stage's result, or
    what a workspace keeps beside them."""
    stages = next((above for above in file.parents if above.name == ".stages"), None)
    if stages is None:  # a lock, or the texts that a search has split
        return file.name.endswith(".lock") or (
            file.suffix == ".txt" and file.parent.name.endswith("-search")
        )
    own = stages / file.relative_to(stages).parts[0]
    return own.is_file() or (own / "artifact.json").is_file()


def _files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
