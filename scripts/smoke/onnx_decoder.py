"""A decoder's ONNX graph in onnxruntime."""

from __future__ import annotations

import json
import os
import platform
import time
from pathlib import Path
from typing import Any

from runtimes.reports import keep_to_itself

from .bundle import CannotRun
from .engine import Answer, Work
from .machine import cpu_features
from .processes import peak_rss_bytes


class OnnxDecoder:
    """A decoder in onnxruntime, with the tokenizer that lies beside the model file.

    Works on every graph with `input_ids` and a KV cache of `past_key_values.*` and `present.*`.
    """

    name = "onnxruntime"
    install = "pip install onnxruntime{version} tokenizers"
    sweeps = True

    def __init__(self) -> None:
        keep_to_itself()
        import numpy
        import onnxruntime
        import tokenizers

        self._np: Any = numpy
        self._ort: Any = onnxruntime
        self._tokenizers: Any = tokenizers
        self.version = str(onnxruntime.__version__)
        self.features = " ".join([platform.machine(), *cpu_features()])
        self._session: Any = None
        self._tokenizer: Any = None
        self._model = Path()
        self._threads = 0
        self._context = 0
        self._stops: set[int] = set()
        self._past: dict[str, Any] = {}
        self._length = 0

    @property
    def pid(self) -> int | None:
        return os.getpid()

    def load(self, model: Path, profile: dict[str, Any], context: int, threads: int) -> None:
        self._model, self._context = model, context
        try:
            self._tokenizer = self._tokenizers.Tokenizer.from_file(
                str(model.parent / "tokenizer.json")
            )
        except Exception as error:
            raise CannotRun(f"tokenizer.json does not load: {error}") from None
        ends = [self._tokenize(text, False) for text in profile.get("stop_texts", [])]
        self._stops = {ids[0] for ids in ends if len(ids) == 1}
        self.set_threads(threads)

    def set_threads(self, threads: int) -> None:
        if threads == self._threads:
            return
        options = self._ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4
        try:
            self._session = self._ort.InferenceSession(
                str(self._model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise CannotRun(f"onnxruntime refuses {self._model.name}: {error}") from None
        self._threads = threads
        self._inputs = {item.name: item for item in self._session.get_inputs()}
        self._outputs = [item.name for item in self._session.get_outputs()]
        if "input_ids" not in self._inputs or "logits" not in self._outputs:
            raise CannotRun(f"{self._model.name} is no decoder: no input_ids or no logits")

    def answer(self, prompt: str, add_special: bool, max_new_tokens: int) -> Answer:
        start = time.perf_counter()
        prompt_ids = self._tokenize(prompt, add_special)
        self._clear()
        token = self._run(prompt_ids)
        ttft_sec = time.perf_counter() - start
        ids: list[int] = []
        while token not in self._stops and len(ids) < max_new_tokens:
            ids.append(token)
            token = self._run([token])
        return Answer(
            prompt_token_ids=prompt_ids,
            prompt_tokens=len(prompt_ids),
            token_ids=ids,
            text=self._tokenizer.decode(ids, skip_special_tokens=True),
            raw_text=self._tokenizer.decode(ids, skip_special_tokens=False),
            stopped=token in self._stops,
            ttft_sec=ttft_sec,
        )

    def prefill(self, count: int) -> Work:
        self._clear()
        start = time.perf_counter()
        self._run(self._some_tokens(count))
        return Work(count, time.perf_counter() - start)

    def decode(self, count: int) -> Work:
        self._clear()
        start = time.perf_counter()
        for token in self._some_tokens(count):
            self._run([token])
        return Work(count, time.perf_counter() - start)

    def peak_rss(self) -> int | None:
        return peak_rss_bytes(self.pid)

    def close(self) -> None:
        self._session = None
        self._past = {}

    def _run(self, tokens: list[int]) -> int:
        """Take tokens in behind those before; the likeliest next one."""
        np, first = self._np, self._length
        self._length += len(tokens)
        if self._length > self._context:
            raise CannotRun(f"{self._length} tokens do not fit the context of {self._context}")
        feed = {"input_ids": np.array([tokens], dtype=np.int64), **self._past}
        if "attention_mask" in self._inputs:
            feed["attention_mask"] = np.ones((1, self._length), dtype=np.int64)
        if "position_ids" in self._inputs:
            feed["position_ids"] = np.arange(first, self._length, dtype=np.int64)[None]
        try:
            made = dict(zip(self._outputs, self._session.run(None, feed)))  # noqa: B905 (3.8)
        except Exception as error:
            raise CannotRun(f"onnxruntime cannot run {self._model.name}: {error}") from None
        self._past = {
            name: made[name.replace("past_key_values", "present")]
            for name in self._inputs
            if name.startswith("past_key_values.")
        }
        return int(made["logits"][0, -1].argmax())

    def _clear(self) -> None:
        self._length = 0
        self._past = {}
        for name, item in self._inputs.items():
            if name.startswith("past_key_values."):
                shape = [size if isinstance(size, int) else 0 for size in item.shape]
                shape[0], shape[2] = 1, 0
                shape[3] = shape[3] or self._head_size()
                self._past[name] = self._np.zeros(shape, dtype=self._np.float32)

    def _head_size(self) -> int:
        """From the config beside the model, where the graph leaves the cache's width open."""
        config = json.loads((self._model.parent / "config.json").read_text(encoding="utf-8"))
        return int(config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"])

    def _some_tokens(self, count: int) -> list[int]:
        size = int(self._tokenizer.get_vocab_size())
        return [(31 + 7919 * index) % size for index in range(count)]

    def _tokenize(self, text: str, add_special: bool) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=add_special).ids)
