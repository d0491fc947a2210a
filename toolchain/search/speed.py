"""Decode speed here, against a fixed file that is timed in turns with the candidate.

A machine that also does other work is slower now and faster then; both files meet the same, so the
ratio of their speeds stays. A study keeps the fixed file's speed, and a candidate's speed is the
ratio times that.
"""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from pathlib import Path

PROMPT_TOKENS, MOST_TOKENS, FEWEST_TOKENS, ROUNDS = 64, 48, 8, 7
_ROUND_SEC = 0.5


@dataclass(frozen=True)
class Timed:
    """`ratio` is the candidate's speed over the fixed file's, the median of all rounds; `spread`
    the distance between the rounds' quartiles, as a share of it. Speeds in tokens/s, medians."""

    ratio: float
    spread: float
    tokens_per_sec: float
    fixed_tokens_per_sec: float


@dataclass(frozen=True)
class Runs:
    """A file and how it runs."""

    file: Path
    kv_cache_type: str
    threads: int


def time_pair(candidate: Runs, fixed: Runs, rounds: int = ROUNDS) -> Timed:
    """Greedy decoding of both files in turns; the first round warms up and is not counted."""
    from runtimes.timed import TimedOptions
    from runtimes.timed_llama import LlamaDecoder

    context = PROMPT_TOKENS + MOST_TOKENS + 16
    pair = (candidate, fixed)
    decoders = [
        LlamaDecoder(
            runs.file, TimedOptions(runs.threads, context, kv_cache_type=runs.kv_cache_type)
        )
        for runs in pair
    ]
    prompt = range(1, PROMPT_TOKENS + 1)
    try:
        slowest = 0.0
        for decoder in decoders:
            decoder.prefill(prompt)
            slowest = max(slowest, statistics.median(decoder.decode(FEWEST_TOKENS)))
        count = max(FEWEST_TOKENS, min(MOST_TOKENS, int(_ROUND_SEC / max(slowest, 1e-9))))
        seconds: list[tuple[float, float]] = []
        for index in range(rounds):
            order = (0, 1) if index % 2 else (1, 0)
            found = [0.0, 0.0]
            for which in order:
                decoders[which].prefill(prompt)
                found[which] = statistics.median(decoders[which].decode(count))
            seconds.append((found[0], found[1]))
    finally:
        for decoder in decoders:
            decoder.close()
    ratios = [theirs / own for own, theirs in seconds]
    ratio = statistics.median(ratios)
    quartiles = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else [ratio, ratio, ratio]
    return Timed(
        ratio=ratio,
        spread=(quartiles[2] - quartiles[0]) / ratio,
        tokens_per_sec=1 / statistics.median(own for own, _ in seconds),
        fixed_tokens_per_sec=1 / statistics.median(theirs for _, theirs in seconds),
    )
