"""One answer of a model: text as it grows, cut at stop texts, counted, stopped when asked to."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from runtimes.streaming import text_pieces
from toolchain.models import OpenModel


@dataclass(frozen=True)
class Asked:
    """What is to be answered, and how."""

    prompt_ids: Sequence[int]
    max_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int | None = None
    stops: tuple[str, ...] = ()


class StopTexts:
    """Cuts growing text where the first stop text begins; what may become one is held back."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stops)
        self._held = ""
        self.hit = False

    def take(self, piece: str) -> str:
        """What of the text so far can be shown now."""
        text = self._held + piece
        found = [at for at in (text.find(stop) for stop in self._stops) if at >= 0]
        if found:
            self.hit, self._held = True, ""
            return text[: min(found)]
        keep = max((_overlap(text, stop) for stop in self._stops), default=0)
        self._held = text[len(text) - keep :]
        return text[: len(text) - keep]

    def rest(self) -> str:
        """What was held back when the text has ended."""
        return "" if self.hit else self._held


class Answer:
    """An answer in the making. After the last piece `finish_reason` and `tokens` are final."""

    def __init__(self, model: OpenModel, asked: Asked, halted: Callable[[], bool]) -> None:
        self._model, self._asked, self._halted = model, asked, halted
        self.tokens = 0
        self.finish_reason: str | None = None

    def pieces(self) -> Iterator[str]:
        """The text, piece by piece. Ends early, with `finish_reason` None, when halted."""
        stops = StopTexts(self._asked.stops)
        for piece in text_pieces(self._tokens(), self._model.runtime.detokenize):
            if shown := stops.take(piece):
                yield shown
            if stops.hit:
                self.finish_reason = "stop"
                return
        if rest := stops.rest():
            yield rest

    def _tokens(self) -> Iterator[int]:
        asked = self._asked
        made = self._model.stream(
            asked.prompt_ids,
            asked.max_tokens,
            temperature=asked.temperature,
            seed=asked.seed,
            top_p=asked.top_p,
        )
        for token in made:
            self.tokens += 1
            yield token
            if self._halted():
                return
        self.finish_reason = "length" if self.tokens == asked.max_tokens else "stop"


def _overlap(text: str, stop: str) -> int:
    """How many characters at the text's end begin the stop text."""
    longest = min(len(text), len(stop) - 1)
    return next((n for n in range(longest, 0, -1) if text.endswith(stop[:n])), 0)
