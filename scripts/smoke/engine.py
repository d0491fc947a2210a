"""What an engine does here, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from .bundle import CannotRun

QUICK_RESTART_SEC = 4.0  # an engine that is started again for each number of threads


class NotThere(CannotRun):
    """This machine does not have the engine."""


@dataclass(frozen=True)
class PassedOver:
    """An engine that is not used, and why; `there` when this machine has it."""

    name: str
    there: bool
    reason: str


@dataclass(frozen=True)
class Answer:
    """One greedy answer. `raw_text` shows control tokens too; the stop token is part of neither.

    Ids are None where the engine does not tell them; `prompt_tokens` is how many it counted.
    """

    prompt_token_ids: list[int] | None
    prompt_tokens: int
    token_ids: list[int] | None
    text: str
    raw_text: str
    stopped: bool
    ttft_sec: float


@dataclass(frozen=True)
class Work:
    """How many tokens took how long, as the engine counts them."""

    tokens: int
    sec: float

    @property
    def rate(self) -> float:
        return self.tokens / max(self.sec, 1e-9)


class Engine(Protocol):
    """What runs a model here. `features` names the build and CPU features that decide rounding.

    `install` says how to get it. An engine whose `sweeps` is false is not asked to change its
    number of threads. `pid` is the process that holds the model, None where that is not known.
    """

    name: str
    install: str
    version: str
    features: str
    sweeps: bool

    @property
    def pid(self) -> int | None: ...

    def load(self, model: Path, profile: dict[str, Any], context: int, threads: int) -> None:
        """Load the model; `CannotRun` with the engine's reason when it refuses."""

    def answer(self, prompt: str, add_special: bool, max_new_tokens: int) -> Answer:
        """Greedy answer to a rendered prompt."""

    def set_threads(self, threads: int) -> None:
        """Use this many threads from now on."""

    def prefill(self, count: int) -> Work:
        """Process a prompt of about `count` tokens in an empty context."""

    def decode(self, count: int) -> Work:
        """Process about `count` tokens one by one in an empty context."""

    def peak_rss(self) -> int | None:
        """Largest resident set of the process that holds the model; None where not readable."""

    def close(self) -> None:
        """Give everything back."""
