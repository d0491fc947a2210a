"""What a benchmark asks of an engine: prefill, decode steps and whole requests, timed inside it.

An engine is a module with

    open_decoder(path: Path, options: TimedOptions) -> TimedDecoder
    open_encoder(path: Path, options: TimedOptions) -> TimedEncoder

(one of them or both) and one row in `ENGINES`. All engines do the same work: greedy tokens that no
stop token ends, KV cache anew for each prompt, times taken around the engine's own calls.
"""

from __future__ import annotations

import importlib
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from common.errors import UserError, near_names

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

ENGINES = {
    "llama.cpp": "runtimes.timed_llama",
    "onnxruntime": "runtimes.timed_ort",
    "torch": "runtimes.timed_torch",
}


@dataclass(frozen=True)
class TimedOptions:
    """`threads` compute; `context_tokens` is one request's room; `parallel` requests are served at
    once; `all_logits` computes the logits of every prompt token, else of the last one only;
    `dtype` is float32 or bfloat16 where the engine can choose; `kv_cache_type` is llama.cpp's."""

    threads: int
    context_tokens: int
    parallel: int = 1
    all_logits: bool = False
    dtype: str = "float32"
    kv_cache_type: str = "f16"


@dataclass(frozen=True)
class RequestTime:
    """One request as its client saw it: to the first token, and to the last."""

    ttft_sec: float
    total_sec: float


@dataclass(frozen=True)
class Served:
    """Requests of clients who each ask anew when answered; `wall_sec` from first to last."""

    requests: tuple[RequestTime, ...]
    wall_sec: float


class TimedDecoder(Protocol):
    """A loaded language model. `serving` says how requests of several clients are worked on."""

    @property
    def serving(self) -> str: ...

    @property
    def facts(self) -> Mapping[str, Any]:
        """`vocab_size`; `weight_bytes_per_token`, what a decode step reads; `all_logits`."""
        ...

    def prefill(self, token_ids: Sequence[int]) -> float:
        """Seconds from the call to the first token, with an empty KV cache."""
        ...

    def decode(self, count: int) -> list[float]:
        """Seconds of each of so many further tokens."""
        ...

    def serve(self, prompts: Sequence[Sequence[int]], count: int, clients: int) -> Served:
        """Answer all prompts with `count` tokens each, `clients` of them at any time."""
        ...

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """`[tokens, vocabulary]`, for quality beside speed."""
        ...

    def close(self) -> None: ...


class TimedEncoder(Protocol):
    """A loaded encoder: classifier or embedding model."""

    @property
    def facts(self) -> Mapping[str, Any]: ...

    def encode(self, token_ids: NDArray[np.int64]) -> float:
        """Seconds for a batch `[batch, sequence]` without padding, the result in memory."""
        ...

    def outputs(self, token_ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        """Logits `[batch, labels]` or embeddings `[batch, hidden]`, for quality beside speed."""
        ...

    def close(self) -> None: ...


def open_decoder(engine: str, path: Path, options: TimedOptions) -> TimedDecoder:
    """Load a model; raises `UserError` for an unknown engine, one that is not installed, and a
    model that does not load."""
    decoder: TimedDecoder = _opener(engine, "open_decoder")(path, options)
    return decoder


def open_encoder(engine: str, path: Path, options: TimedOptions) -> TimedEncoder:
    """Load an encoder; raises as `open_decoder`."""
    encoder: TimedEncoder = _opener(engine, "open_encoder")(path, options)
    return encoder


def _opener(engine: str, name: str) -> Callable[[Path, TimedOptions], Any]:
    if engine not in ENGINES:
        raise UserError(f"unknown engine '{engine}'", near_names(engine, ENGINES))
    try:
        found = getattr(importlib.import_module(ENGINES[engine]), name, None)
    except ImportError as error:
        raise UserError(
            f"engine {engine} is not installed: {error}", "make setup, or leave it out (--engines)"
        ) from None
    if found is None:
        kind = name.removeprefix("open_")
        raise UserError(f"engine {engine} runs no {kind}", "leave it out (--engines)")
    opener: Callable[[Path, TimedOptions], Any] = found
    return opener


@dataclass
class _Work:
    """Prompts that wait, and what became of those taken."""

    waiting: queue.SimpleQueue[Sequence[int]] = field(default_factory=queue.SimpleQueue)
    done: list[RequestTime] = field(default_factory=list)
    faults: list[BaseException] = field(default_factory=list)


def serve_with_threads(
    answer: Callable[[Sequence[int]], RequestTime],
    prompts: Sequence[Sequence[int]],
    clients: int,
) -> Served:
    """`clients` threads share the model; each asks anew once it was answered. `answer` must be
    safe for several threads at once."""
    work = _Work()
    for prompt in prompts:
        work.waiting.put(prompt)

    def client() -> None:
        try:
            while True:
                work.done.append(answer(work.waiting.get_nowait()))
        except queue.Empty:
            return
        except BaseException as error:
            work.faults.append(error)

    threads = [threading.Thread(target=client) for _ in range(clients)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    wall_sec = time.perf_counter() - start
    if work.faults:
        raise work.faults[0]
    return Served(tuple(work.done), wall_sec)
