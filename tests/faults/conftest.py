"""The fault suite: its quick part runs with every test, the whole of it with `make faults`.

Each test that proves a promise of docs/faults.md counts its cases with `proven(...)`; `make faults`
writes these figures into that page.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from journeys import JOURNEYS, Given
from moments import Calm, undisturbed

Proven = Callable[..., None]


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--whole", action="store_true", help="every case of the fault suite (hours)")
    parser.addoption("--record", type=Path, help="append what was proven to this file, JSON lines")


@pytest.fixture(scope="session")
def whole(request: pytest.FixtureRequest) -> bool:
    """Whether every case is to run, rather than the quick part."""
    return bool(request.config.getoption("--whole", default=False))


@pytest.fixture
def proven(request: pytest.FixtureRequest) -> Proven:
    """`proven(part, case, count, unit, seconds)`: one row of the table, where a record is asked
    for. Call it last, when nothing can fail any more."""
    path: Path | None = request.config.getoption("--record", default=None)

    def note(part: str, case: str, count: int, unit: str, seconds: float = 0.0) -> None:
        row = {"part": part, "case": case, "count": count, "unit": unit, "seconds": seconds}
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps(row) + "\n")

    return note


@pytest.fixture(scope="session")
def calm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Calm]:
    """The undisturbed run of a journey, made once."""
    given = Given(tmp_path_factory.mktemp("given"))
    made: dict[str, Calm] = {}

    def of(name: str) -> Calm:
        if name not in made:
            made[name] = undisturbed(JOURNEYS[name](given), tmp_path_factory.mktemp(name))
        return made[name]

    return of
