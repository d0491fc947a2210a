"""The rules of the advice: options, each a shipped recipe, and what speaks for and against them.

All of it is data in `rules.yaml`; every rule names its source. Nothing here decides.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, model_validator

from common.strict import Strict, parse, read_yaml
from toolchain.report.strings import LANGUAGES

_FILE = Path(__file__).with_name("rules.yaml")
Goal = Literal["memory", "speed", "quality", "task"]
Quality = Literal["highest", "high", "fair"]
Device = Literal["server-gpu", "server-cpu", "edge", "phone"]
Hardware = Literal["none", "cpu", "gpu"]


class Words(Strict):
    """A text in both languages."""

    en: str = Field(min_length=1)
    zh: str = Field(min_length=1)

    def of(self, language: str) -> str:
        return (self.en, self.zh)[LANGUAGES.index(language)]


class Range(Strict):
    """A number from `at_least` on and below `below`."""

    at_least: float | None = None
    below: float | None = None

    def holds(self, value: float) -> bool:
        low = self.at_least is None or value >= self.at_least
        return low and (self.below is None or value < self.below)


class When(Strict):
    """Conditions on a case; all that are named must hold. A list holds one of its entries.

    `fits`: some type of the target fits its memory; `fits_8_bit`: one of 8 bits does;
    `fast_enough`: one that fits meets the latency (by estimate); `student`: a smaller model is at
    hand; `examples`: labelled and unlabelled together.
    """

    goal: tuple[Goal, ...] = ()
    quality: tuple[Quality, ...] = ()
    device: tuple[Device, ...] = ()
    kind: tuple[Literal["decoder", "encoder"], ...] = ()
    training: tuple[Hardware, ...] = ()
    labelled: Range | None = None
    unlabelled: Range | None = None
    examples: Range | None = None
    fits: bool | None = None
    fits_8_bit: bool | None = None
    fast_enough: bool | None = None
    student: bool | None = None

    def unmet(self, facts: Any) -> list[str]:
        """Names of the conditions that `facts` (attributes of the same names) do not meet."""
        return [name for name in type(self).model_fields if not self._holds(name, facts)]

    def _holds(self, name: str, facts: Any) -> bool:
        wanted, value = getattr(self, name), getattr(facts, name)
        if wanted is None or wanted == ():
            return True
        if isinstance(wanted, Range):
            return wanted.holds(value)
        return value in wanted if isinstance(wanted, tuple) else value == wanted


class Expectation(Words):
    """A figure that was measured or published: `source` is a page of this project or a citation."""

    source: str = Field(min_length=1)

    @property
    def in_project(self) -> bool:
        """Whether the source is a page of this project."""
        return self.source.endswith(".md")


class Option(Strict):
    """One way to go. `commands` are run as they stand, with {model}, {target}, {out}, {data},
    {bundle}, {recipes}, {name_student} (a sed script) and {type} filled in; `quantization` is the
    type that they name."""

    recipe: str
    title: Words
    cost: Words
    needs: When = When()
    needs_words: Words | None = None
    quantization: str = "auto"
    commands: tuple[str, ...] = Field(min_length=1)
    expect: tuple[Expectation, ...] = ()

    @model_validator(mode="after")
    def _says_what_it_needs(self) -> Option:
        if self.needs != When() and self.needs_words is None:
            raise ValueError("needs_words must say what `needs` asks for")
        return self


class Rule(Strict):
    """`weight` for (above 0) or against (below 0) an option in such a case."""

    option: str
    when: When = When()
    weight: int = Field(ge=-200, le=200)
    reason: Words
    source: str = Field(min_length=1)


class Note(Strict):
    """Advice that is no option of its own."""

    when: When = When()
    words: Words
    source: str = Field(min_length=1)


class Speed(Strict):
    """What hardware reaches in training, in floating-point operations per second."""

    flop_per_sec: float = Field(gt=0)
    source: str = Field(min_length=1)


class Rules(Strict):
    """The whole file. `targets` is the target that stands for a kind of device."""

    targets: dict[Device, str]
    hardware: dict[Literal["cpu", "gpu"], Speed]
    options: dict[str, Option]
    rules: tuple[Rule, ...]
    notes: tuple[Note, ...] = ()

    @model_validator(mode="after")
    def _names_are_known(self) -> Rules:
        unknown = sorted({rule.option for rule in self.rules} - self.options.keys())
        if unknown:
            raise ValueError(f"rules for options that are not there: {', '.join(unknown)}")
        return self


@functools.cache
def load_rules() -> Rules:
    """The shipped rules. Raises `UserError` when the file is damaged."""
    return parse(Rules, read_yaml(_FILE), f"rules {_FILE.name}")
