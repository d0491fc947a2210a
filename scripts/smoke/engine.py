"""What an engine does here, whichever it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(frozen=True)
class Answer:
    """One greedy answer. `raw_text` shows control tokens too; the stop token is part of neither."""

    prompt_token_ids: list[int]
    token_ids: list[int]
    text: str
    raw_text: str
    stopped: bool
    ttft_sec: float


class Engine(Protocol):
    """What runs a model here. `features` names the build and CPU features that decide rounding."""

    name: str
    version: str
    features: str

    def load(self, model: Path, profile: dict[str, Any], context: int, threads: int) -> None:
        """Load the model; `CannotRun` with the engine's reason when it refuses."""

    def answer(self, prompt: str, add_special: bool, max_new_tokens: int) -> Answer:
        """Greedy answer to a rendered prompt."""

    def set_threads(self, threads: int) -> None:
        """Use this many threads from now on."""

    def prefill_sec(self, count: int) -> float:
        """Time to process a prompt of `count` tokens in an empty context."""

    def decode_sec(self, count: int) -> float:
        """Time to process `count` tokens one by one in an empty context."""

    def close(self) -> None:
        """Give everything back."""
