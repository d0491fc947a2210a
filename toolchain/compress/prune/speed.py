"""Decode speed of GGUF files in llama.cpp on this machine, one against the other."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path

_PROMPT_TOKENS, _TOKENS, _ROUNDS = 16, 32, 5


def decode_tokens_per_sec(files: Sequence[Path]) -> list[float]:
    """Median tokens a second of each file; the files take turns, so that other work on the machine
    meets all of them."""
    from runtimes.threads import idle_cores
    from runtimes.timed import TimedOptions
    from runtimes.timed_llama import LlamaDecoder

    options = TimedOptions(threads=idle_cores(), context_tokens=_PROMPT_TOKENS + _TOKENS + 16)
    decoders = [LlamaDecoder(path, options) for path in files]
    times: list[list[float]] = [[] for _ in files]
    try:
        for index in range(_ROUNDS + 1):
            for own, decoder in zip(times, decoders, strict=True):
                decoder.prefill(range(1, _PROMPT_TOKENS + 1))
                steps = decoder.decode(_TOKENS)
                if index:  # the first round warms up
                    own.extend(steps)
    finally:
        for decoder in decoders:
            decoder.close()
    return [1 / statistics.median(own) for own in times]
