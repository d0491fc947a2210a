"""The report says which types were chosen, what that was to cost and what it did."""

from __future__ import annotations

from typing import Any

import pytest

from toolchain.report.mixed import mixed

FACTS: dict[str, Any] = {
    "settings": {"keep_speed": False},
    "reference": "Q4_K_M",
    "types": {"IQ4_XS": 30, "Q5_K": 26, "Q8_0": 1},
    "predicted_kld": 0.0017,
    "predicted_plain_kld": 0.0029,
    "measured_kld": 0.0018,
    "gap_share": 0.0,
    "exact": True,
}


def report(language: str, **changes: Any) -> str:
    manifest = {"model_file": {"bits_per_weight": 5.07}, "mixed": {**FACTS, **changes}}
    return mixed(manifest, language)


@pytest.mark.parametrize(("language", "exact"), [("en", "none: exact"), ("zh-CN", "无：精确解")])
def test_types_and_klds_are_told(language: str, exact: str) -> None:
    text = report(language)
    for said in ("30 × IQ4_XS, 26 × Q5_K, 1 × Q8_0", "5.07", "0.0017", "0.0018", "0.0029", exact):
        assert said in text


def test_a_gap_and_a_limit_on_speed_are_told() -> None:
    text = report("en", exact=False, gap_share=0.0123, settings={"keep_speed": True})
    assert "at most 1.23 %" in text and "no longer than that of plain Q4_K_M" in text
    assert "Plain" not in report("en", predicted_plain_kld=None)


def test_without_chosen_types_there_is_nothing() -> None:
    assert mixed({"mixed": None}, "en") == ""
