"""What a run's log tells."""

from __future__ import annotations

import pytest

from toolchain.train.result import unlearned


@pytest.mark.parametrize(
    ("losses", "told"),
    [
        ([0.6] * 30 + [0.7] * 30, True),
        ([0.7] * 30 + [0.6] * 30, False),
        ([0.6, 0.9] * 29 + [0.7, 0.1], False),
        ([0.1] + [0.9] * 30 + [0.5] * 29, False),  # one step tells nothing
        ([0.6] * 20 + [0.7] * 20, False),  # nor do few
    ],
)
def test_a_loss_that_did_not_fall_is_told(losses: list[float], told: bool) -> None:
    history = [{"step": n, "loss": loss} for n, loss in enumerate(losses, start=1)]
    warning = unlearned([*history, {"step": 60, "eval_loss": 0.1}])
    assert (warning is not None) is told
    assert warning is None or ("(0.6000 in the first tenth" in warning and "0.7000" in warning)
