"""Costs that were measured already, so that a measurement that was stopped goes on.

`costs.jsonl` in the stage's own folder for such things has a line for each: name, type, KLD.
"""

from __future__ import annotations

import json
from pathlib import Path

_FILE = "costs.jsonl"


class Kept:
    """Costs by name and type. `folder` is made with the first that is added."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / _FILE
        self._found: dict[tuple[str, str], float] = {}
        if self._path.is_file():
            for line in self._path.read_text("utf-8", "replace").splitlines():
                try:
                    name, kind, kld = json.loads(line)
                except ValueError:  # the last line of a run that was killed
                    continue
                self._found[name, kind] = float(kld)

    @property
    def count(self) -> int:
        return len(self._found)

    def get(self, name: str, kind: str) -> float | None:
        """The cost, or None where it was not measured yet."""
        return self._found.get((name, kind))

    def add(self, name: str, kind: str, kld: float) -> None:
        """Keep a cost, at once."""
        self._found[name, kind] = kld
        self._path.parent.mkdir(parents=True, exist_ok=True)
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps([name, kind, kld]) + "\n")
