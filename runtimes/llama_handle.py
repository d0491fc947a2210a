"""llama.cpp's handles, through its C interface: its log, a model, a context and a batch.

Nothing here knows what is asked of the model; `runtimes.llama` does. Source: `include/llama.h`.
"""

from __future__ import annotations

import ctypes
import functools
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.in_use import note
from runtimes.gguf_header import read_header

_LOG_LINES = 200
_LEVEL_WARN, _LEVEL_ERROR, _LEVEL_CONTINUED = 3, 4, 5
_FLASH_ATTENTION_AUTO, _FLASH_ATTENTION_OFF = -1, 0
KV_CACHE_TYPES = {"f32": 0, "f16": 1, "q4_0": 2, "q5_0": 6, "q5_1": 7, "q8_0": 8, "bf16": 30}
"""Names of KV-cache types and their numbers in ggml (`enum ggml_type`)."""


class LogSink:
    """Takes llama.cpp's log, which goes to one callback for the whole process, and keeps its
    end."""

    def __init__(self) -> None:
        import llama_cpp

        self._lines: deque[tuple[int, str]] = deque(maxlen=_LOG_LINES)
        self._level = 0
        # The callback must outlive every use of the library, hence `log_sink` caches this object.
        self._callback = llama_cpp.llama_log_callback(self._take)

    def _take(self, level: int, text: bytes, _user_data: Any) -> None:
        self._level = self._level if level == _LEVEL_CONTINUED else level
        self._lines.append((self._level, text.decode("utf-8", "replace")))

    def start(self) -> None:
        """Forget what came before and take the log from now on."""
        import llama_cpp

        self._lines.clear()
        llama_cpp.llama_log_set(self._callback, ctypes.c_void_p(0))

    def faults(self) -> str:
        """The errors since `start`, or failing these the warnings, as one line."""
        for level in (_LEVEL_ERROR, _LEVEL_WARN):
            parts = [text.strip() for at, text in self._lines if at == level and text.strip()]
            if parts:
                return "; ".join(dict.fromkeys(parts))
        return "llama.cpp gave no reason"


@functools.cache
def log_sink() -> LogSink:
    """The process's sink, made on first use; starts the backend as well."""
    import llama_cpp

    sink = LogSink()
    sink.start()
    llama_cpp.llama_backend_init()
    return sink


def load_model(path: Path, gpu_layers: int, *, check_weights: bool = False) -> Any:
    """A `llama_model *`; a `UserError` with llama.cpp's own words when it does not load. With
    `check_weights` every weight is read first, and NaN or Inf in them is a reason not to."""
    import llama_cpp

    if not path.is_file():
        raise UserError(f"model file {path} is missing", "build it first, or check the path")
    read_header(path)  # llama.cpp ends the process on some files that these checks refuse
    note("llama.cpp", path)
    log_sink().start()
    params = llama_cpp.llama_model_default_params()
    params.n_gpu_layers = gpu_layers
    params.check_tensors = check_weights
    model = llama_cpp.llama_model_load_from_file(str(path).encode(), params)
    if not model:
        raise UserError(
            f"llama.cpp cannot load {path}: {log_sink().faults()}",
            "make the file again; when it came from elsewhere, check that it is complete and of an "
            "architecture that this llama.cpp knows",
        )
    return model


def load_adapter(model: Any, path: Path) -> Any:
    """A LoRA adapter (GGUF) for a loaded model, freed with it; a `UserError` with llama.cpp's own
    words when it does not fit."""
    import llama_cpp

    read_header(path)
    note("llama.cpp", path)
    log_sink().start()
    adapter = llama_cpp.llama_adapter_lora_init(model, str(path).encode())
    if not adapter:
        raise UserError(
            f"llama.cpp cannot load the adapter {path}: {log_sink().faults()}",
            "convert it for this very base",
        )
    return adapter


def apply_adapter(context: Any, adapter: Any) -> None:
    """Use the adapter, as it is, in everything that the context computes."""
    import llama_cpp

    adapters = (llama_cpp.llama_adapter_lora_p_ctypes * 1)(adapter)
    if llama_cpp.llama_set_adapters_lora(context, adapters, 1, (ctypes.c_float * 1)(1.0)) != 0:
        raise UserError(f"llama.cpp cannot use the adapter: {log_sink().faults()}")


def open_context(
    model: Any,
    *,
    context_tokens: int,
    batch_tokens: int,
    parallel: int,
    threads: int,
    kv_cache_type: str,
    flash_attention: bool,
    vectors: bool = False,
) -> Any:
    """A `llama_context *` with `context_tokens` for each of `parallel` sequences; with `vectors` it
    gives each token's last hidden state in place of logits."""
    import llama_cpp

    if kv_cache_type not in KV_CACHE_TYPES:
        raise UserError(
            f"unknown KV-cache type '{kv_cache_type}'", f"one of {', '.join(KV_CACHE_TYPES)}"
        )
    log_sink().start()
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = context_tokens * parallel
    params.n_batch = params.n_ubatch = batch_tokens
    params.n_seq_max = parallel
    params.n_threads = params.n_threads_batch = threads
    params.type_k = params.type_v = KV_CACHE_TYPES[kv_cache_type]
    params.flash_attn_type = _FLASH_ATTENTION_AUTO if flash_attention else _FLASH_ATTENTION_OFF
    if vectors:
        params.embeddings, params.pooling_type = True, llama_cpp.LLAMA_POOLING_TYPE_NONE
    context = llama_cpp.llama_init_from_model(model, params)
    if not context:
        raise UserError(
            f"llama.cpp cannot make a context of {params.n_ctx} tokens: {log_sink().faults()}",
            "ask for fewer context tokens, another KV-cache type, or free some memory",
        )
    return context


class Batch:
    """A `llama_batch` of at most `capacity` tokens, each of one sequence; refilled for each
    step."""

    def __init__(self, capacity: int) -> None:
        import llama_cpp

        self.capacity = capacity
        self._batch = llama_cpp.llama_batch_init(capacity, 0, 1)
        self.clear()

    def clear(self) -> None:
        self._batch.n_tokens = 0

    def __len__(self) -> int:
        return int(self._batch.n_tokens)

    def add(self, token: int, position: int, sequence: int, *, wants_logits: bool) -> None:
        """Append one token."""
        batch, i = self._batch, self._batch.n_tokens
        if i >= self.capacity:
            raise IndexError("the batch is full")
        batch.token[i] = token
        batch.pos[i] = position
        batch.n_seq_id[i] = 1
        batch.seq_id[i][0] = sequence
        batch.logits[i] = int(wants_logits)
        batch.n_tokens = i + 1

    def decode(self, context: Any) -> None:
        """Run the model over the batch."""
        import llama_cpp

        status = llama_cpp.llama_decode(context, self._batch)
        if status != 0:
            raise UserError(f"llama.cpp could not decode (status {status}): {log_sink().faults()}")

    def free(self) -> None:
        import llama_cpp

        llama_cpp.llama_batch_free(self._batch)


def token_text(vocab: Any, token_ids: Sequence[int], *, special: bool) -> str:
    """The pieces of the tokens joined, a leading space kept; bytes that are no UTF-8 become
    U+FFFD."""
    import llama_cpp

    size = 64
    buffer = ctypes.create_string_buffer(size)
    parts = []
    for token in token_ids:
        length = llama_cpp.llama_token_to_piece(vocab, token, buffer, size, 0, special)
        if length < 0:
            size = -length
            buffer = ctypes.create_string_buffer(size)
            length = llama_cpp.llama_token_to_piece(vocab, token, buffer, size, 0, special)
        parts.append(buffer.raw[:length])
    return b"".join(parts).decode("utf-8", "replace")
