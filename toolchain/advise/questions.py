"""What the advice needs to know: one list, from which options, questions and defaults are made.

edgeforge advise --goal speed --quality high --device phone
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from toolchain.report.strings import LANGUAGES

GOALS = ("memory", "speed", "quality", "task")
QUALITIES = ("highest", "high", "fair")
DEVICES = ("server-gpu", "server-cpu", "edge", "phone")
HARDWARE = ("none", "cpu", "gpu")
# Limits that only matter where something is trained.
OF_TRAINING = ("training_gib", "hours")
_TRIES = 3


@dataclass(frozen=True)
class Question:
    """One flag and the question for it. `choices` empty: a number; `default` None: no limit."""

    name: str
    help: str
    en: str
    zh: str
    choices: tuple[str, ...] = ()
    default: str | float | None = None
    whole: bool = False
    metavar: str = "N"

    @property
    def flag(self) -> str:
        return f"--{self.name.replace('_', '-')}"

    def words(self, language: str) -> str:
        return (self.en, self.zh)[LANGUAGES.index(language)]

    def read(self, text: str) -> str | float:
        """The answer as a value. Raises `ValueError`, which says what is wanted."""
        if self.choices:
            if text not in self.choices:
                raise ValueError(f"'{text}' is none of {', '.join(self.choices)}")
            return text
        return self._number(text)

    def _number(self, text: str) -> float:
        wanted = "no whole number from 0 on" if self.whole else "no number from 0 on"
        try:
            value = float(text)
        except ValueError:
            raise ValueError(f"'{text}' is {wanted}") from None
        if not math.isfinite(value) or value < 0 or (self.whole and value != int(value)):
            raise ValueError(f"'{text}' is {wanted}")
        return int(value) if self.whole else value


QUESTIONS = (
    Question("goal", "what matters most", "What matters most?", "最看重什么？", GOALS, "memory"),
    Question(
        "quality",
        "how much of the model's quality must stay: highest (next to all), high, fair",
        "How much of the quality must stay?",
        "须保留多少质量？",
        QUALITIES,
        "high",
    ),
    Question(
        "device",
        "kind of device, in place of --target",
        "Which kind of device?",
        "哪类设备？",
        DEVICES,
        "edge",
    ),
    Question(
        "memory_gib",
        "memory that the model may take (default: what the target has to spare)",
        "GiB of memory that the model may take (Enter: what the device has to spare)",
        "模型可用内存（GiB；回车：设备的可用内存）",
        metavar="GIB",
    ),
    Question(
        "token_ms",
        "longest time for one output token (default: no limit)",
        "Longest time for one output token, in ms (Enter: no limit)",
        "每个输出 token 的最长时间（毫秒；回车：不限）",
        metavar="MS",
    ),
    Question(
        "labelled",
        "examples with the right answer that you have (default: 0)",
        "How many examples with the right answer have you?",
        "有多少条带正确答案的样本？",
        default=0,
        whole=True,
    ),
    Question(
        "unlabelled",
        "texts of your kind without answers that you have (default: 0)",
        "How many texts of your kind without answers have you?",
        "有多少条没有答案的同类文本？",
        default=0,
        whole=True,
    ),
    Question(
        "training",
        "hardware to train on",
        "What hardware is there to train on?",
        "用什么硬件训练？",
        HARDWARE,
        "none",
    ),
    Question(
        "training_gib",
        "memory of that hardware, of all its devices together (default: no limit)",
        "GiB of memory that it has, of all its devices together (Enter: no limit)",
        "其内存共多少 GiB，所有设备合计（回车：不限）",
        metavar="GIB",
    ),
    Question(
        "hours",
        "longest time for training (default: no limit)",
        "Longest time for training, in hours (Enter: no limit)",
        "训练最长时间（小时；回车：不限）",
        metavar="H",
    ),
)


def add_questions(parser: argparse.ArgumentParser) -> None:
    """An option for each question; absent is None."""
    group = parser.add_argument_group("your case (asked on a terminal, else assumed)")
    for question in QUESTIONS:
        if question.choices:
            group.add_argument(
                question.flag,
                choices=question.choices,
                help=f"{question.help} (default: {question.default})",
            )
        else:
            group.add_argument(
                question.flag, type=_type(question), metavar=question.metavar, help=question.help
            )


def given_answers(args: argparse.Namespace) -> dict[str, Any]:
    """The answers that came as options."""
    answers = {question.name: getattr(args, question.name) for question in QUESTIONS}
    return {name: value for name, value in answers.items() if value is not None}


def ask_missing(
    given: Mapping[str, Any], language: str, skip: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Answers from the person at the terminal to what was not given; none without a terminal.

    Questions go to stderr, so that stdout holds the advice alone.
    """
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return {}
    open_questions = [q for q in QUESTIONS if q.name not in given and q.name not in skip]
    asked: dict[str, Any] = {}
    for question in open_questions:
        if question.name in OF_TRAINING and {**given, **asked}.get("training", "none") == "none":
            continue
        value = _ask(question, language)
        if value is not None:
            asked[question.name] = value
    return asked


def _ask(question: Question, language: str) -> str | float | None:
    """One answer; Enter, the end of input and three answers that are none take the default."""
    choices = f" ({'/'.join(question.choices)})" if question.choices else ""
    default = "" if question.default is None else f" [{question.default}]"
    for _ in range(_TRIES):
        print(f"{question.words(language)}{choices}{default} ", end="", file=sys.stderr, flush=True)
        line = sys.stdin.readline().strip()
        if not line:
            return None
        try:
            return question.read(line)
        except ValueError as error:
            print(f"  {error}", file=sys.stderr)
    return None


def _type(question: Question) -> Callable[[str], str | float]:
    def read(text: str) -> str | float:
        try:
            return question.read(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    return read
