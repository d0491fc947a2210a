"""The report's part on trainings: the settings that counted, and no others."""

from __future__ import annotations

from typing import Any

import pytest

from toolchain.compress.distill.settings import Distill
from toolchain.report.chain import training
from toolchain.train.settings import Finetune


def _report(settings: Any) -> str:
    run = {"settings": settings.model_dump(mode="json"), "steps": 5, "curve": None}
    return training({"training": [run]}, "en").splitlines()[0]


@pytest.mark.parametrize("settings", [Finetune(method="full"), Distill()])
def test_an_adapter_is_told_only_where_one_was_trained(settings: Any) -> None:
    told = _report(settings)
    assert "method full" in told and "rank" not in told and "dora" not in told


def test_an_adapter_is_told_with_its_rank() -> None:
    own = _report(Finetune(method="lora"))
    assert "alpha 16.0" in own and "rank 8" in own
    assert "lora_alpha 16.0" in _report(Distill(method="lora"))


def test_the_share_of_the_teacher_is_told() -> None:
    assert "alpha 0.7" in _report(Distill(alpha=0.7))
