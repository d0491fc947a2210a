"""How fast encoders run on this machine: interleaved rounds in one process, medians.

times = time_encoders({"fp32": folder, "int8-dynamic": other}, shapes=[Shape(1, 128)])
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common.strict import Strict
from runtimes.ort import SessionSettings
from runtimes.ort_encoder import OrtEncoder, open_encoder

_LEAST_ROUNDS = 5
_MOST_ROUNDS = 40
_TIME_SEC = 6.0  # for one shape, all encoders together


class Shape(Strict):
    """One kind of work: `batch` texts of `tokens` tokens each, without padding."""

    batch: int
    tokens: int

    def __str__(self) -> str:
        return f"{self.batch}x{self.tokens}"


SHAPES = (Shape(batch=1, tokens=128), Shape(batch=8, tokens=128))


def time_encoders(
    folders: Mapping[str, Path], shapes: Sequence[Shape] = SHAPES, *, threads: int
) -> dict[str, dict[str, float]]:
    """Median seconds of one run: name → shape → seconds. Every encoder runs once in each round,
    after a round that does not count, so that the machine's load meets all of them alike."""
    settings = SessionSettings(threads=threads)
    with ExitStack() as stack:
        models = {
            name: stack.enter_context(open_encoder(folder, settings))
            for name, folder in folders.items()
        }
        times: dict[str, dict[str, float]] = {name: {} for name in models}
        for shape in shapes:
            for name, seconds in _rounds(models, shape).items():
                times[name][str(shape)] = statistics.median(seconds)
    return times


def _rounds(models: Mapping[str, OrtEncoder], shape: Shape) -> dict[str, list[float]]:
    inputs = {name: _inputs(model, shape) for name, model in models.items()}
    for name, model in models.items():
        model.run(inputs[name])
    seconds: dict[str, list[float]] = {name: [] for name in models}
    stop_sec = time.perf_counter() + _TIME_SEC
    for number in range(_MOST_ROUNDS):
        if number >= _LEAST_ROUNDS and time.perf_counter() > stop_sec:
            break
        for name, model in models.items():
            start_sec = time.perf_counter()
            model.run(inputs[name])
            seconds[name].append(time.perf_counter() - start_sec)
    return seconds


def _inputs(model: OrtEncoder, shape: Shape) -> dict[str, Any]:
    """Texts of the shape's size, cut to what the model takes. Ids do not change the speed."""
    import numpy as np

    tokens = min(shape.tokens, model.facts.max_tokens)
    pad = model.facts.pad_token_id
    ids = np.full((shape.batch, tokens), 1 if pad == 0 else 0, np.int64)
    columns = {
        "input_ids": ids,
        "attention_mask": np.ones_like(ids),
        "token_type_ids": np.zeros_like(ids),
    }
    return {name: columns[name] for name in model.facts.inputs}
