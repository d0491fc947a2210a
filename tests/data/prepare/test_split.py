"""Splits that depend on prompt and seed alone."""

from __future__ import annotations

import pytest

from common.errors import UserError
from toolchain.data.prepare.split import SPLITS, Assigner, fill_empty, parse_ratios, position
from toolchain.data.prepare.text_identity import digest, language, normalise

RATIOS = (0.8, 0.1, 0.1)
PROMPTS = [digest([f"prompt {number}"]) for number in range(20_000)]


def test_shares_are_those_asked_for() -> None:
    found = [Assigner(RATIOS, 3).split_of(prompt) for prompt in PROMPTS]
    for name, share in zip(SPLITS, RATIOS, strict=True):
        # five standard deviations of a binomial share
        assert found.count(name) / len(found) == pytest.approx(share, abs=0.0142)


def test_the_seed_decides_and_is_repeatable() -> None:
    first = [Assigner(RATIOS, 1).split_of(p) for p in PROMPTS[:500]]
    assert first == [Assigner(RATIOS, 1).split_of(p) for p in PROMPTS[:500]]
    assert first != [Assigner(RATIOS, 2).split_of(p) for p in PROMPTS[:500]]


def test_a_share_of_zero_gets_nothing() -> None:
    assigner = Assigner((0.9, 0.0, 0.1), 0)
    assert {assigner.split_of(p) for p in PROMPTS} == {"train", "test"}
    assert {Assigner((1.0, 0.0, 0.0), 0).split_of(p) for p in PROMPTS} == {"train"}


def test_an_empty_split_of_a_small_file_gets_a_prompt() -> None:
    low = sorted(PROMPTS, key=lambda p: position(p, 0))[:5]  # all train
    prompts = {"train": low, "validation": [], "test": []}
    counts = {"train": 5, "validation": 0, "test": 0}
    filled = fill_empty(Assigner(RATIOS, 0), prompts, counts)
    assert filled is not None
    names = [filled.split_of(p) for p in low]
    assert [names.count(name) for name in SPLITS] == [3, 1, 1]
    assert fill_empty(Assigner(RATIOS, 0), prompts, {**counts, "validation": 1, "test": 1}) is None


def test_too_few_prompts_for_the_splits_are_refused() -> None:
    prompts = {"train": PROMPTS[:1] * 9, "validation": PROMPTS[1:2], "test": []}
    counts = {"train": 9, "validation": 1, "test": 0}
    with pytest.raises(UserError, match="2 different prompts are too few for 3 splits"):
        fill_empty(Assigner(RATIOS, 0), prompts, counts)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("0.8,0.1,0.2", "adds up to 1.1"),
        ("0.8,0.2", "has 2 shares"),
        ("a,b,c", "not made of numbers"),
        ("1.2,-0.1,-0.1", "no number from 0 to 1"),
        ("nan,0.5,0.5", "no number from 0 to 1"),
        ("0,0.5,0.5", "nothing to train on"),
    ],
)
def test_ratios_that_make_no_sense_are_refused(text: str, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        parse_ratios(text)


def test_ratios_are_read() -> None:
    assert parse_ratios("0.7, 0.2,0.1") == (0.7, 0.2, 0.1)


def test_texts_are_the_same_without_case_width_and_space() -> None:
    assert normalise(" Ｔurn  ON\nthe LAMP ") == "turn on the lamp"
    assert digest(["A b"]) == digest(["a\tB"])
    assert digest(["a", "b"]) != digest(["ab"])


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("Turn on the lamp, please.", "en"),
        ("把 TV 打开，音量 50%", "zh"),
        ("電気を消してください", "other"),
        ("불을 켜 주세요", "other"),
        ("Включи свет", "other"),
        ("Éteins la lumière à côté", "other"),
        ("12 + 30 = ?", "other"),
    ],
)
def test_language_by_script(text: str, code: str) -> None:
    assert language(text) == code
