"""Two processes learn what one learns."""

from __future__ import annotations

from pathlib import Path

import pytest
from train_runs import log_of, tune


def test_two_processes_give_the_loss_of_one(base: Path, data: Path, tmp_path: Path) -> None:
    # 14 rows in batches of 4: the last batch has rows for one process only
    run = {"epochs": 2, "dropout": 0}
    two = tune(base, data, tmp_path / "two", processes=2, **run)
    one = tune(base, data, tmp_path / "one", **run)
    assert len(log_of(one)) == len(log_of(two)) == 10
    for alone, shared in zip(log_of(one), log_of(two), strict=True):
        assert alone == pytest.approx(shared, rel=1e-5)
