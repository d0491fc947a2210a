"""The home-control generator: determinism, clean parts, legal and unique answers."""

from __future__ import annotations

import json
from functools import cache

import pytest

from toolchain.data.home_control import (
    DEFAULT_DEVICES,
    DEVICES,
    KINDS,
    LANGUAGES,
    RESERVED_DEVICES,
    SPLITS,
    Example,
    generate,
    legal_actions,
    normalise,
    score,
)
from toolchain.data.home_control.devices import ALL_ROOMS, DOORS, ROOMS
from toolchain.data.home_control.values import chinese_number, english_number

COUNTS = {"train": 12_000, "validation": 1500, "test": 3000}


@cache
def part(split: str) -> tuple[Example, ...]:
    """A drawn part, made once for all tests."""
    return tuple(generate(split, COUNTS[split], 3))


def everything() -> list[Example]:
    return [example for split in SPLITS for example in part(split)]


def sentence(example: Example) -> str:
    return normalise(example.messages[0]["content"])


def test_the_same_seed_gives_the_same_examples() -> None:
    assert list(generate("test", 50, 3)) == list(part("test")[:50])
    assert list(generate("test", 50, 4)) != list(part("test")[:50])


def test_parts_share_no_sentence_even_over_seeds() -> None:
    train = {sentence(e) for e in part("train")}
    validation = {sentence(e) for e in generate("validation", 1500, 11)}
    test = {sentence(e) for e in generate("test", 3000, 12)}
    assert not train & validation and not train & test and not validation & test


def test_sentences_do_not_repeat_within_a_part() -> None:
    for split in SPLITS:
        assert len({sentence(e) for e in part(split)}) == COUNTS[split]


def test_every_test_example_has_a_combination_that_training_lacks() -> None:
    shown = {c for split in ("train", "validation") for e in part(split) for c in e.combinations}
    held = {c for e in part("test") for c in e.combinations} - shown
    assert all(held.intersection(e.combinations) for e in part("test"))


def test_answers_are_canonical_legal_json() -> None:
    for example in everything():
        answer = json.loads(example.answer)
        assert json.dumps(answer, ensure_ascii=False, separators=(",", ":")) == example.answer
        if example.kind == "refusal":
            assert answer == {"calls": [], "refusal": "unsupported"}
            continue
        assert answer["calls"] and list(answer) == ["calls"]
        for call in answer["calls"]:
            assert list(call) == ["device", "room", "action", "value"]
            assert call["device"] in DEFAULT_DEVICES
            assert call["action"] in legal_actions(call["device"])
            assert call["room"] in {None, ALL_ROOMS, *ROOMS, *DOORS}


def test_one_sentence_has_one_answer() -> None:
    answers: dict[str, set[str]] = {}
    for example in everything():
        answers.setdefault(sentence(example), set()).add(example.answer)
    assert all(len(found) == 1 for found in answers.values())


@pytest.mark.parametrize("split", SPLITS)
def test_languages_kinds_and_devices_are_all_there(split: str) -> None:
    examples = part(split)
    assert {e.language for e in examples} == set(LANGUAGES)
    assert {e.kind for e in examples} == set(KINDS)
    assert {e.split for e in examples} == {split}
    called = {call["device"] for e in examples for call in json.loads(e.answer)["calls"]}
    assert called == set(DEFAULT_DEVICES)


def test_training_shows_every_action_of_every_device() -> None:
    seen = {
        (c["device"], c["action"]) for e in part("train") for c in json.loads(e.answer)["calls"]
    }
    assert seen == {(d, action) for d in DEFAULT_DEVICES for action in legal_actions(d)}


def test_no_slot_is_left_in_a_sentence() -> None:
    for example in everything():
        text = example.messages[0]["content"]
        assert not set("{}~@") & set(text) and "  " not in text and text == text.strip()


def test_reserved_devices_appear_only_on_request() -> None:
    words = [w for d in RESERVED_DEVICES for pair in DEVICES[d].english for w in pair]
    words += [w for d in RESERVED_DEVICES for w in DEVICES[d].chinese]
    for example in everything():
        assert not any(word in example.messages[0]["content"].casefold() for word in words)
    wide = (*DEFAULT_DEVICES, *RESERVED_DEVICES)
    for example in generate("train", 100, 1, devices=wide, must_include="dehumidifier"):
        assert any(c["device"] == "dehumidifier" for c in json.loads(example.answer)["calls"])


def test_one_language_and_no_refusals_can_be_asked_for() -> None:
    examples = list(generate("train", 300, 1, languages=("zh",), refusals=0.0))
    assert {e.language for e in examples} == {"zh"}
    assert "refusal" not in {e.kind for e in examples}


def test_wrong_arguments_and_a_domain_too_small_are_errors() -> None:
    with pytest.raises(ValueError, match="unknown"):
        next(generate("dev", 1, 1))
    with pytest.raises(ValueError, match="sauna"):
        next(generate("train", 1, 1, devices=("sauna",)))
    with pytest.raises(ValueError, match="too few"):
        list(generate("train", 1, 1, devices=("timer",), must_include="light", refusals=0.0))


def test_score_is_exact_but_for_outer_space() -> None:
    answer = '{"calls":[],"refusal":"unsupported"}'
    assert score(answer + "\n", answer)
    assert not score('{"calls": [], "refusal": "unsupported"}', answer)
    assert not score("", answer)


@pytest.mark.parametrize(
    ("number", "english", "chinese"),
    [(0, "zero", "零"), (10, "ten", "十"), (21, "twenty-one", "二十一"),
     (100, "one hundred", "一百"), (105, "one hundred and five", "一百零五"),
     (215, "two hundred and fifteen", "二百一十五"),
     (250, "two hundred and fifty", "二百五十")],
)  # fmt: skip
def test_numbers_in_words(number: int, english: str, chinese: str) -> None:
    assert (english_number(number), chinese_number(number)) == (english, chinese)
