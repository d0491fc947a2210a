"""llama.cpp inside this process, through llama-cpp-python."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

from .bundle import CannotRun, adapter_of
from .engine import Answer, Work
from .processes import peak_rss_bytes


class LlamaCpp:
    """llama.cpp through llama-cpp-python's C bindings (greedy sampling in C, no numpy)."""

    name = "llama-cpp-python"
    install = "pip install llama-cpp-python{version}"
    sweeps = True
    callbacks: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        import llama_cpp

        self._lib: Any = llama_cpp
        self.version = str(llama_cpp.__version__)
        self.features = llama_cpp.llama_print_system_info().decode().strip()
        self._log: list[str] = []
        # The library calls it as long as it is loaded, so it must outlive this object.
        on_log = llama_cpp.llama_log_callback(self._keep_log)
        LlamaCpp.callbacks.append(on_log)
        llama_cpp.llama_log_set(on_log, ctypes.c_void_p(0))
        self._model: Any = None
        self._context: Any = None
        self._sampler: Any = None
        self._vocab: Any = None
        self._stops: list[int] = []
        self._batch = 512

    @property
    def pid(self) -> int | None:
        return os.getpid()

    def _keep_log(self, level: int, text: bytes, _data: Any) -> None:
        if level == 4 or (level == 5 and self._log):  # GGML_LOG_LEVEL_ERROR, or its continuation
            self._log = [*self._log, text.decode("utf-8", "replace").strip()][-6:]

    def load(self, model: Path, profile: dict[str, Any], context: int, threads: int) -> None:
        lib = self._lib
        lib.llama_backend_init()
        model_params = lib.llama_model_default_params()
        model_params.n_gpu_layers = int(profile.get("gpu_layers", 0))
        self._model = lib.llama_model_load_from_file(os.fsencode(str(model)), model_params)
        if not self._model:
            raise self._refused("cannot load " + model.name)
        kv_type = str(profile.get("kv_cache_type", "f16"))
        params = lib.llama_context_default_params()
        params.n_ctx, params.n_batch, params.n_ubatch = context, self._batch, self._batch
        params.n_threads = params.n_threads_batch = threads
        params.type_k = params.type_v = getattr(lib, "GGML_TYPE_" + kv_type.upper())
        # A quantized V cache needs flash attention. With a float one it stays off: on
        # CPUs it splits the cache by thread, and answers would depend on the number of threads.
        params.flash_attn_type = 0 if kv_type.lower() in ("f16", "f32", "bf16") else 1
        self._context = lib.llama_init_from_model(self._model, params)
        if not self._context:
            raise self._refused(f"cannot make a context of {context} tokens")
        adapter = adapter_of(model, profile)
        if adapter:
            self._apply_adapter(adapter)
        self._vocab = lib.llama_model_get_vocab(self._model)
        self._sampler = lib.llama_sampler_init_greedy()
        # The checkpoint may end answers at tokens that a GGUF cannot name as ends (a BOS).
        ends = [self._tokenize(text, False) for text in profile.get("stop_texts", [])]
        self._stops = [ids[0] for ids in ends if len(ids) == 1]

    def _apply_adapter(self, file: Path) -> None:
        """A LoRA adapter that is not merged; it is freed with the model."""
        lib = self._lib
        adapter = lib.llama_adapter_lora_init(self._model, os.fsencode(str(file)))
        if not adapter:
            raise self._refused("cannot load the adapter " + file.name)
        array = (lib.llama_adapter_lora_p_ctypes * 1)(adapter)
        if lib.llama_set_adapters_lora(self._context, array, 1, (ctypes.c_float * 1)(1.0)) != 0:
            raise self._refused("cannot use the adapter " + file.name)

    def _refused(self, what: str) -> CannotRun:
        return CannotRun("llama.cpp {}: {}".format(what, " ".join(self._log) or "no reason given"))

    def answer(self, prompt: str, add_special: bool, max_new_tokens: int) -> Answer:
        start = time.perf_counter()
        prompt_ids = self._tokenize(prompt, add_special)
        self._clear()
        self._decode(prompt_ids)
        token = self._sample()
        ttft_sec = time.perf_counter() - start
        ids: list[int] = []
        while not self._is_stop(token) and len(ids) < max_new_tokens:
            ids.append(token)
            self._decode([token])
            token = self._sample()
        return Answer(
            prompt_token_ids=prompt_ids,
            prompt_tokens=len(prompt_ids),
            token_ids=ids,
            text=self._text(ids, special=False),
            raw_text=self._text(ids, special=True),
            stopped=self._is_stop(token),
            ttft_sec=ttft_sec,
        )

    def set_threads(self, threads: int) -> None:
        self._lib.llama_set_n_threads(self._context, threads, threads)

    def prefill(self, count: int) -> Work:
        return self._time(count, lambda: self._decode(self._some_tokens(count)))

    def decode(self, count: int) -> Work:
        def one_by_one() -> None:
            for token in self._some_tokens(count):
                self._decode([token])

        return self._time(count, one_by_one)

    def peak_rss(self) -> int | None:
        return peak_rss_bytes(self.pid)

    def close(self) -> None:
        lib = self._lib
        if self._sampler:
            lib.llama_sampler_free(self._sampler)
        if self._context:
            lib.llama_free(self._context)
        if self._model:
            lib.llama_model_free(self._model)
        self._model = self._context = self._sampler = None

    def _time(self, count: int, work: Callable[[], None]) -> Work:
        self._clear()
        start = time.perf_counter()
        work()
        self._lib.llama_synchronize(self._context)
        return Work(count, time.perf_counter() - start)

    def _some_tokens(self, count: int) -> list[int]:
        # Any tokens do for timing, as in llama-bench; these are the same on every run.
        size = int(self._lib.llama_vocab_n_tokens(self._vocab))
        return [(31 + 7919 * index) % size for index in range(count)]

    def _clear(self) -> None:
        self._lib.llama_memory_clear(self._lib.llama_get_memory(self._context), True)

    def _decode(self, tokens: list[int]) -> None:
        for first in range(0, len(tokens), self._batch):
            part = tokens[first : first + self._batch]
            array = (self._lib.llama_token * len(part))(*part)
            code = self._lib.llama_decode(
                self._context, self._lib.llama_batch_get_one(array, len(part))
            )
            if code != 0:
                raise self._refused(f"cannot decode (code {code})")

    def _sample(self) -> int:
        return int(self._lib.llama_sampler_sample(self._sampler, self._context, -1))

    def _is_stop(self, token: int) -> bool:
        return token in self._stops or bool(self._lib.llama_vocab_is_eog(self._vocab, token))

    def _tokenize(self, text: str, add_special: bool) -> list[int]:
        data = text.encode("utf-8")
        room = len(data) + 16
        array = (self._lib.llama_token * room)()
        count = self._lib.llama_tokenize(
            self._vocab, data, len(data), array, room, add_special, True
        )
        if count < 0:
            raise self._refused(f"cannot tokenize a prompt of {len(data)} bytes")
        return list(array[:count])

    def _text(self, tokens: list[int], special: bool) -> str:
        data = b""
        for token in tokens:
            buffer = ctypes.create_string_buffer(1024)
            size = self._lib.llama_token_to_piece(self._vocab, token, buffer, 1024, 0, special)
            data += buffer.raw[: max(size, 0)]
        return data.decode("utf-8", "replace")
