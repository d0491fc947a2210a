"""A GGUF in llama.cpp, timed: see `runtimes.timed`. Requests of several clients share each step
(continuous batching)."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtimes.gguf_file import read_tensor_types
from runtimes.llama import LlamaModel
from runtimes.timed import RequestTime, Served, TimedOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_EMBEDDING, _HEAD = "token_embd.weight", "output.weight"


class LlamaDecoder:
    """Implements `runtimes.timed.TimedDecoder`."""

    serving = "batched: all open requests share each step"

    def __init__(self, path: Path, options: TimedOptions) -> None:
        self._path, self._options = path, options
        self._model = self._open(1)
        self._many: LlamaModel | None = None
        self._past = 0
        self._token = 0

    @property
    def facts(self) -> Mapping[str, Any]:
        return {
            "vocab_size": self._model.vocab_size,
            "weight_bytes_per_token": weight_bytes_per_token(self._path),
            "all_logits": self._options.all_logits,
            "kv_cache_bytes_per_element": 2,
        }

    def prefill(self, token_ids: Sequence[int]) -> float:
        start = time.perf_counter()
        batch = self._model._emptied()
        for first in range(0, len(token_ids), batch.capacity):
            batch.clear()
            for i in range(first, min(first + batch.capacity, len(token_ids))):
                last = i == len(token_ids) - 1
                batch.add(token_ids[i], i, 0, wants_logits=last or self._options.all_logits)
            batch.decode(self._model._context)
        self._token = self._model._best_token()
        self._past = len(token_ids)
        return time.perf_counter() - start

    def decode(self, count: int) -> list[float]:
        model, batch = self._model, self._model._batch
        assert batch is not None
        steps = []
        for _ in range(count):
            start = time.perf_counter()
            batch.clear()
            batch.add(self._token, self._past, 0, wants_logits=True)
            batch.decode(model._context)
            self._token = model._best_token()
            self._past += 1
            steps.append(time.perf_counter() - start)
        return steps

    def serve(self, prompts: Sequence[Sequence[int]], count: int, clients: int) -> Served:
        if self._many is None or self._many.parallel != clients:
            if self._many is not None:
                self._many.close()
            self._many = self._open(clients)
        start = time.perf_counter()
        answers = self._many.generate_many(prompts, count, stop_ids=())
        wall_sec = time.perf_counter() - start
        times = [RequestTime(a.ttft_sec, a.ttft_sec + a.decode_sec) for a in answers]
        return Served(tuple(times), wall_sec)

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        return self._model.logits(token_ids)

    def close(self) -> None:
        self._model.close()
        if self._many is not None:
            self._many.close()

    def _open(self, parallel: int) -> LlamaModel:
        options = self._options
        return LlamaModel(
            self._path,
            context_tokens=options.context_tokens,
            threads=options.threads,
            parallel=parallel,
            kv_cache_type=options.kv_cache_type,
        )


def weight_bytes_per_token(path: Path) -> int:
    """Bytes of weights that a decode step reads: all, but for an embedding that is no head too."""
    tensors = read_tensor_types(path)
    own_head = any(tensor.name == _HEAD for tensor in tensors)
    return sum(t.size_bytes for t in tensors if not (own_head and t.name == _EMBEDDING))


def open_decoder(path: Path, options: TimedOptions) -> LlamaDecoder:
    """Load a `.gguf` file."""
    return LlamaDecoder(path, options)
