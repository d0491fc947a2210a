"""Greedy answers to several prompts at once: which go together, and when each has ended."""

from __future__ import annotations

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence

from runtimes.protocol import Generation, require_prompt


class GreedyGroup:
    """The answers of prompts that are decoded together, as their tokens come.

    An answer ends at one of `stops`, which is not part of it, or after `max_new_tokens`. Times
    count from when the group is made.
    """

    def __init__(self, count: int, max_new_tokens: int, stops: frozenset[int]) -> None:
        self._start = time.perf_counter()
        self._first = self._start
        self._max_new_tokens, self._stops = max_new_tokens, stops
        self._tokens: list[list[int]] = [[] for _ in range(count)]
        self._ends: list[float | None] = [None] * count
        self._stopped = [False] * count

    def take(self, best: Sequence[int]) -> bool:
        """The next token of every prompt; whether all answers have ended."""
        now = time.perf_counter()
        if not any(self._tokens) and not any(self._stopped):
            self._first = now
        for i, token in enumerate(best):
            if self._ends[i] is not None:
                continue
            self._stopped[i] = token in self._stops
            if not self._stopped[i]:
                self._tokens[i].append(token)
            if self._stopped[i] or len(self._tokens[i]) == self._max_new_tokens:
                self._ends[i] = now
        return None not in self._ends

    def generations(self, detokenize: Callable[[Sequence[int]], str]) -> list[Generation]:
        """The answers, in the order of the prompts."""
        ttft_sec = self._first - self._start
        return [
            Generation(
                tuple(row), detokenize(row), stop, ttft_sec, (end or self._first) - self._first
            )
            for row, stop, end in zip(self._tokens, self._stopped, self._ends, strict=True)
        ]


class Grouped:
    """`generate` and `generate_many` of a runtime that can decode a group of prompts together."""

    parallel: int
    context_tokens: int

    @property
    @abstractmethod
    def eog_token_ids(self) -> frozenset[int]: ...

    @abstractmethod
    def _generate_group(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, stops: frozenset[int]
    ) -> list[Generation]:
        """Decode prompts together until each has ended."""

    def generate(
        self,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        stop_ids: Sequence[int] | None = None,
    ) -> Generation:
        """The greedy continuation of a prompt; ends at one of `stop_ids` (default: the model's
        end-of-generation tokens; an empty sequence never stops) or after `max_new_tokens`."""
        return self.generate_many([prompt_ids], max_new_tokens, stop_ids)[0]

    def generate_many(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Sequence[int] | None = None,
    ) -> list[Generation]:
        """Greedy continuations, `parallel` prompts at a time, those of like length together."""
        stops = self.eog_token_ids if stop_ids is None else frozenset(stop_ids)
        for prompt in prompts:
            require_prompt(self, prompt, max_new_tokens)
        answers: dict[int, Generation] = {}
        for group in self._groups([len(prompt) for prompt in prompts]):
            made = self._generate_group([prompts[i] for i in group], max_new_tokens, stops)
            answers.update(zip(group, made, strict=True))
        return [answers[i] for i in range(len(prompts))]

    def _groups(self, lengths: Sequence[int]) -> Iterator[list[int]]:
        """Indices of prompts to decode together."""
        order = sorted(range(len(lengths)), key=lambda i: lengths[i])
        for start in range(0, len(order), self.parallel):
            yield order[start : start + self.parallel]
