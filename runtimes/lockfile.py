"""The lock (`requirements.lock`): pinned versions and digests of every dependency.

Standard library only: set-up reads it before anything is installed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

LOCK = Path(__file__).resolve().parent.parent / "requirements.lock"
_PIN = re.compile(r"^([A-Za-z0-9._-]+)==([^ ;\\]+)(?: ; ([^\\]+?))? \\$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")


@dataclass(frozen=True)
class Pin:
    """One package: `marker` says on which machines, `text` is its part of the lock."""

    name: str
    version: str
    marker: str
    hashes: frozenset[str]
    text: str


def read_lock(path: Path = LOCK) -> list[Pin]:
    """All pins in the lock's order; a package may have several, each with a marker of its own.

    Raises `ValueError` for a line that pins nothing.
    """
    pins = []
    lines = (line for line in path.read_text(encoding="utf-8").splitlines() if line[:1] != "#")
    for block in re.split(r"\n(?=\S)", "\n".join(lines)):
        match = _PIN.match(block.split("\n", 1)[0])
        if not match:
            raise ValueError(f"{path}: no pinned version with a digest: {block.splitlines()[0]!r}")
        name, version, marker = match.groups()
        pins.append(Pin(name, version, marker or "", frozenset(_HASH.findall(block)), block))
    return pins


def pin_of(name: str, path: Path = LOCK) -> Pin:
    """The pin of a package that has exactly one."""
    (pin,) = (pin for pin in read_lock(path) if pin.name == name)
    return pin
