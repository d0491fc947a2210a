"""Values of the home-control task: what is drawn for each kind and how it is said."""

from __future__ import annotations

import random
from dataclasses import dataclass

from . import chinese, english

_ONES = [
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine",
    "ten", "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
    "eighteen", "nineteen",
]  # fmt: skip
_TENS = ["-", "-", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
_DIGITS = "零一二三四五六七八九"

_SMALL_STEP = {"percent": 10, "temp": 1, "level": 1}
_LARGE_STEP = {"percent": 30, "temp": 3, "level": 2}
_ENGLISH_SPECIAL = {
    ("percent", 50): ("half",), ("percent", 100): ("maximum", "full"),
    ("percent", 25): ("a quarter",), ("minutes", 15): ("a quarter of an hour",),
    ("minutes", 30): ("half an hour", "thirty minutes"),
    ("minutes", 60): ("an hour", "one hour"), ("minutes", 120): ("two hours", "2 hours"),
}  # fmt: skip
_CHINESE_SPECIAL = {
    ("percent", 50): ("一半",), ("percent", 100): ("最大", "百分之百"),
    ("minutes", 15): ("一刻钟",), ("minutes", 30): ("半小时", "半个小时"),
    ("minutes", 60): ("一小时", "一个小时"), ("minutes", 120): ("两小时", "两个小时"),
}  # fmt: skip


@dataclass(frozen=True)
class Value:
    """A value as the answer writes it, as the sentence says it, and the class of its form."""

    answer: int | str | None
    spoken: str
    form: str


def english_number(number: int) -> str:
    """A number below 1000 in English words."""
    if number < 20:
        return _ONES[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        return _TENS[tens] + (f"-{_ONES[ones]}" if ones else "")
    hundreds, rest = divmod(number, 100)
    head = f"{_ONES[hundreds]} hundred"
    return f"{head} and {english_number(rest)}" if rest else head


def chinese_number(number: int) -> str:
    """A number below 1000 in Chinese characters."""
    if number < 10:
        return _DIGITS[number]
    if number < 100:
        tens, ones = divmod(number, 10)
        head = "" if tens == 1 else _DIGITS[tens]
        return head + "十" + (_DIGITS[ones] if ones else "")
    hundreds, rest = divmod(number, 100)
    head = _DIGITS[hundreds] + "百"
    if not rest:
        return head
    if rest < 10:
        return head + "零" + _DIGITS[rest]
    return head + ("一" if rest < 20 else "") + chinese_number(rest)


def _draw(kind: str, rng: random.Random) -> int:
    """A number that makes sense for an absolute value of this kind."""
    if kind == "percent":
        return rng.randrange(5, 101, 5) if rng.random() < 0.6 else rng.randint(1, 99)
    if kind == "minutes":
        return rng.choice((15, 30, 60, 120)) if rng.random() < 0.3 else rng.randint(1, 59)
    if kind == "oven":
        return rng.randrange(100, 251, 5)
    low, high = {"temp": (14, 30), "level": (1, 6), "channel": (1, 99)}[kind]
    return rng.randint(low, high)


def _say_english(kind: str, number: int, words: bool, rng: random.Random) -> str:
    said = english_number(number) if words else str(number)
    if kind == "percent":
        return f"{said} percent" if words or rng.random() < 0.4 else f"{said}%"
    if kind in ("temp", "oven"):
        units = (" degrees", " degrees", "") if words else (" degrees", "°C", "°", "")
        return said + rng.choice(units)
    if kind == "level":
        return rng.choice(("level ", "level ", "")) + said
    if kind == "minutes":
        return f"{said} minute" + ("" if number == 1 else "s")
    return said


def _say_chinese(kind: str, number: int, words: bool, rng: random.Random, step: bool) -> str:
    said = chinese_number(number) if words else str(number)
    if words and number == 2 and (step or kind == "minutes"):
        said = "两"
    if kind == "percent":
        return f"百分之{said}" if words else f"{said}%"
    if kind in ("temp", "oven"):
        return said + ("度" if words else rng.choice(("度", "度", "℃", "摄氏度")))
    return said + {"level": "档", "minutes": "分钟", "channel": ""}[kind]


def _named(table: dict[str, tuple[str, ...]], rng: random.Random) -> Value:
    name = rng.choice(list(table))
    return Value(name, rng.choice(table[name]), name)


def absolute(kind: str, language: str, rng: random.Random) -> Value:
    """Draw an absolute value: a number with its unit, a colour or a mode."""
    lexicon = english if language == "en" else chinese
    if kind == "color":
        return _named(lexicon.COLORS, rng)
    if kind == "mode":
        return _named(lexicon.MODES, rng)
    number = _draw(kind, rng)
    special = (_ENGLISH_SPECIAL if language == "en" else _CHINESE_SPECIAL).get((kind, number))
    if special and rng.random() < 0.5:
        return Value(number, rng.choice(special), "special")
    words = rng.random() < 0.4
    if language == "en":
        said = _say_english(kind, number, words, rng)
    else:
        said = _say_chinese(kind, number, words, rng, step=False)
    return Value(number, said, "words" if words else "digits")


def relative(kind: str, sign: str, language: str, rng: random.Random) -> Value:
    """Draw a change by a stated amount; the answer carries its sign in a string."""
    steps = {"percent": range(5, 55, 5), "temp": range(1, 7), "level": range(1, 4)}[kind]
    number = rng.choice(steps)
    words = rng.random() < 0.4
    if language == "zh":
        said = _say_chinese(kind, number, words, rng, step=True)
    else:
        said = english_number(number) if words else str(number)
        unit = {"percent": " percent", "temp": " degree", "level": " level"}[kind]
        plural = "" if number == 1 or kind == "percent" else "s"
        said += "%" if kind == "percent" and not words and rng.random() < 0.6 else unit + plural
    return Value(f"{sign}{number}", said, "words" if words else "digits")


def vague(kind: str, sign: str, size: str, spoken: str) -> Value:
    """A change without an amount ("a bit", "a lot"), which stands for a fixed step."""
    step = (_LARGE_STEP if size == "large" else _SMALL_STEP)[kind]
    return Value(f"{sign}{step}", spoken, size)
