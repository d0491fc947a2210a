"""How fast a decoder's ONNX graph computes prompts and generates, for choices made by measurement.

    speeds = measure_decoders({"FP32": fp32, "INT8": int8}, SpeedSettings(threads=1))

All models are measured in turn, again and again, in one process: what else the machine does then
falls on all of them alike, and ratios of rounds stay right where times do not.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from runtimes.ort import SessionSettings, open_session
from runtimes.ort_cache import OrtSequences
from runtimes.ort_graph import decoder_graph

_STEPS_A_ROUND = 8


@dataclass(frozen=True)
class SpeedSettings:
    """A prompt of `prefill_tokens`, then `decode_tokens` one by one, in each of `rounds` rounds.

    `decode_tokens` beyond 8 are counted, not run, in every round: a step's time is the median of 8.
    """

    prefill_tokens: int = 256
    decode_tokens: int = 32
    threads: int | None = None
    rounds: int = 5
    spinning: bool = True


@dataclass(frozen=True)
class DecoderSpeed:
    """Seconds of a prompt and of one generated token, medians over the rounds; the ratios are the
    medians of the first model's time over this one's, round by round."""

    prefill_sec: float
    decode_sec: float
    prefill_ratio: float
    decode_ratio: float

    def as_json(self) -> dict[str, float]:
        return asdict(self)

    def mix_sec(self, prefill_tokens: int, decode_tokens: int, measured_prefill: int) -> float:
        """Seconds of a request with so many prompt and answer tokens."""
        prompt_sec = self.prefill_sec * prefill_tokens / measured_prefill
        return prompt_sec + self.decode_sec * decode_tokens


def measure_decoders(files: Mapping[str, Path], settings: SpeedSettings) -> dict[str, DecoderSpeed]:
    """Speeds of the decoders' graphs, by name; the first one is what the ratios are taken to.

    Raises `UserError` when a file cannot be run.
    """
    decoders = {name: _Timed(file, settings) for name, file in files.items()}
    for decoder in decoders.values():  # warm-up: prepacked weights, buffers, caches
        decoder.round(settings)
    prefill: dict[str, list[float]] = {name: [] for name in files}
    decode: dict[str, list[float]] = {name: [] for name in files}
    names = list(files)
    for turn in range(settings.rounds):
        order = names[turn % len(names) :] + names[: turn % len(names)]
        for name in order:
            prefill_sec, decode_sec = decoders[name].round(settings)
            prefill[name].append(prefill_sec)
            decode[name].append(decode_sec)
    first = names[0]
    return {
        name: DecoderSpeed(
            prefill_sec=statistics.median(prefill[name]),
            decode_sec=statistics.median(decode[name]),
            prefill_ratio=_ratio(prefill[first], prefill[name]),
            decode_ratio=_ratio(decode[first], decode[name]),
        )
        for name in names
    }


class _Timed:
    """An open decoder."""

    def __init__(self, file: Path, settings: SpeedSettings) -> None:
        chosen = SessionSettings(threads=settings.threads, spinning=settings.spinning)
        self._session: Any = open_session(file, chosen)
        self._graph = decoder_graph(self._session, file)
        self._file = file
        # Weights do not care which tokens they meet; these are the same in every run.
        self._prompt = [i * 7919 % self._graph.vocab_size for i in range(settings.prefill_tokens)]

    def round(self, settings: SpeedSettings) -> tuple[float, float]:
        """Seconds of the prompt and of a step."""
        steps = min(settings.decode_tokens, _STEPS_A_ROUND)
        sequences = OrtSequences(
            self._session, self._graph, self._file, [self._prompt], max(1, steps)
        )
        start = time.perf_counter()
        sequences.prefill()
        prefill_sec = time.perf_counter() - start
        step_secs = []
        for step in range(steps):
            start = time.perf_counter()
            sequences.step([self._prompt[step % len(self._prompt)]])
            step_secs.append(time.perf_counter() - start)
        return prefill_sec, statistics.median(step_secs or [0.0])


def _ratio(first: Sequence[float], other: Sequence[float]) -> float:
    return statistics.median(a / b if b else 1.0 for a, b in zip(first, other, strict=True))
