"""Where loss per removed parameter jumps."""

from __future__ import annotations

import pytest

from toolchain.compress.prune.sweep import find_cliff


@pytest.mark.parametrize(
    ("points", "cliff", "last"),
    [
        ([(0, 0), (0.1, 0.01), (0.2, 0.02), (0.3, 0.30)], 0.3, 0.2),
        ([(0, 0), (0.1, 0.01), (0.2, 0.03), (0.3, 0.05)], None, 0.3),
        # A flat start is no reason to call the first real loss a cliff of nothing.
        ([(0, 0), (0.1, 0.0), (0.2, 0.0002), (0.3, 0.0005)], None, 0.3),
    ],
)
def test_cliff(points: list[tuple[float, float]], cliff: float | None, last: float) -> None:
    assert find_cliff(points) == (cliff, last)
