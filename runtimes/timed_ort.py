"""An ONNX file in onnxruntime, timed: see `runtimes.timed`. Requests of several clients
are decoded as one batch where the graph allows that, else by threads that share the session."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from runtimes.onnx_file import read_model
from runtimes.ort import SessionSettings, open_session
from runtimes.ort_cache import OrtSequences
from runtimes.ort_decoder import GRAPH
from runtimes.ort_graph import decoder_graph
from runtimes.timed import (
    RequestTime,
    Served,
    TimedEncoder,
    TimedOptions,
    serve_with_threads,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_LOOKUPS = ("Gather", "GatherBlockQuantized")
_BITS = {"INT4": 4, "UINT4": 4, "FLOAT4E2M1": 4, "INT2": 2, "UINT2": 2}


class OrtDecoder:
    """Implements `runtimes.timed.TimedDecoder` over a graph with a KV cache."""

    def __init__(self, path: Path, options: TimedOptions) -> None:
        self.file = graph_file(path)
        self._options = options
        self._session: Any = open_session(self.file, SessionSettings(threads=options.threads))
        self._graph = decoder_graph(self._session, self.file)
        self._every = options.all_logits
        self._sequences: OrtSequences | None = None
        self._tokens: list[int] = []

    @property
    def serving(self) -> str:
        if self._graph.padding:
            return "batched: clients start together and share each step"
        return "threads: clients share one session"

    @property
    def facts(self) -> Mapping[str, Any]:
        """`all_logits` tells what the file computes by itself."""
        return {
            "vocab_size": self._graph.vocab_size,
            "weight_bytes_per_token": weight_bytes_per_token(self.file),
            "all_logits": not self._graph.last_only,
            "kv_cache_bytes_per_element": 4,
            "shared_cache": self._graph.shared_cache,
        }

    def prefill(self, token_ids: Sequence[int]) -> float:
        start = time.perf_counter()
        self._sequences, self._tokens = self._prefilled([token_ids])
        return time.perf_counter() - start

    def decode(self, count: int) -> list[float]:
        assert self._sequences is not None
        steps = []
        for _ in range(count):
            start = time.perf_counter()
            self._tokens = _best(self._sequences.step(self._tokens))
            steps.append(time.perf_counter() - start)
        return steps

    def serve(self, prompts: Sequence[Sequence[int]], count: int, clients: int) -> Served:
        if not self._graph.padding:
            return serve_with_threads(lambda p: self._answer([p], count)[0], prompts, clients)
        times: list[RequestTime] = []
        start = time.perf_counter()
        for first in range(0, len(prompts), clients):
            times += self._answer(prompts[first : first + clients], count)
        return Served(tuple(times), time.perf_counter() - start)

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        sequences = OrtSequences(self._session, self._graph, self.file, [token_ids], 0)
        rows: NDArray[np.float32] = sequences.prefill(all_positions=True)[0]
        return rows

    def close(self) -> None:
        self._session = self._sequences = None

    def _answer(self, prompts: Sequence[Sequence[int]], count: int) -> list[RequestTime]:
        """Answer prompts together."""
        start = time.perf_counter()
        sequences, tokens = self._prefilled(prompts)
        ttft_sec = time.perf_counter() - start
        for _ in range(count - 1):
            tokens = _best(sequences.step(tokens))
        return [RequestTime(ttft_sec, time.perf_counter() - start)] * len(prompts)

    def _prefilled(self, prompts: Sequence[Sequence[int]]) -> tuple[OrtSequences, list[int]]:
        """Sequences with room for answers, and the first token of each."""
        longest = max(map(len, prompts))
        room = max(1, self._options.context_tokens - longest)
        sequences = OrtSequences(self._session, self._graph, self.file, prompts, room)
        rows = sequences.prefill(all_positions=self._every)
        return sequences, _best(rows[:, -1] if self._every else rows)


def open_decoder(path: Path, options: TimedOptions) -> OrtDecoder:
    """Load `model.onnx` of a folder, or the file given."""
    return OrtDecoder(path, options)


def open_encoder(path: Path, options: TimedOptions) -> TimedEncoder:
    """Load an encoder from `model.onnx` of a folder, or the file given."""
    from runtimes.timed_ort_encoder import OrtEncoder

    return OrtEncoder(graph_file(path), options)


def graph_file(path: Path) -> Path:
    """The ONNX file of a folder; a `UserError` when it has none."""
    file = path / GRAPH if path.is_dir() else path
    if not file.is_file():
        raise UserError(f"ONNX file {file} is missing", "export it again, or check the path")
    return file


def weight_bytes_per_token(file: Path) -> int:
    """Bytes of weights that a decode step reads: all tensors of the graph but tables that are only
    looked up in (a row of an embedding that is no head too)."""
    graph = read_model(file, weights=False).graph
    readers: dict[str, set[bool]] = {}
    for node in graph.node:
        # A quantized table's scales and zero points are looked up along with it.
        for name in node.input:
            readers.setdefault(name, set()).add(node.op_type in _LOOKUPS)
    return sum(
        tensor_bytes(tensor.data_type, tensor.dims)
        for tensor in graph.initializer
        if readers.get(tensor.name) != {True}
    )


def tensor_bytes(data_type: int, dims: Sequence[int]) -> int:
    """Bytes of a tensor as stored; types of less than a byte are packed."""
    import onnx

    try:
        name = onnx.TensorProto.DataType.Name(data_type)  # type: ignore[attr-defined, unused-ignore]
        bits = _BITS.get(name) or 8 * onnx.helper.tensor_dtype_to_np_dtype(data_type).itemsize
    except (KeyError, ValueError):
        raise UserError(
            f"the graph has numbers of the unknown type {data_type}", "export it again"
        ) from None
    return math.ceil(math.prod(dims) * bits / 8)


def _best(rows: NDArray[np.float32]) -> list[int]:
    """The likeliest token of each row."""
    return [int(token) for token in rows.argmax(-1)]
