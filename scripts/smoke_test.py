#!/usr/bin/env python3
"""Prove on this very machine that a bundle works: digests, answers, stop tokens, speed, memory.

One file for a bare device: Python 3.8 or newer, its standard library, and an engine
(llama-cpp-python for GGUF, onnxruntime for ONNX). It lies in every bundle and takes everything else
from there:

    python smoke_test.py                # a table; exit code 0 passed, 1 failed, 2 cannot run
    python smoke_test.py --json result.json --threads 4

Nothing is loaded before SHA256SUMS is verified. The greedy answers must equal those that were
recorded when the bundle was built; on another engine or CPU, whose kernels round differently, the
profile's share of them must. Speed limits come from profile.json too, scaled by memory bandwidth
here over the target's, because decoding reads every weight once per token; prefill computes, so its
limit is scaled by usable cores as well.
"""

from __future__ import annotations

import argparse
import ctypes
import hashlib
import json
import os
import platform
import statistics
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, Protocol

PASSED, FAILED, NOT_MEASURED, NO_LIMIT = "passed", "failed", "not measured", "no limit"
EXIT_PASSED, EXIT_FAILED, EXIT_CANNOT_RUN = 0, 1, 2

SUMS, PROFILE, PROMPTS, LOG = "SHA256SUMS", "profile.json", "prompts.jsonl", "log"
PROFILE_SCHEMA = 1

PREFILL_TOKENS, DECODE_TOKENS, REPETITIONS = 256, 48, 3
SPEED_BUDGET_SEC = 6.0  # for prefill and for decode, each
SWEEP_TOKENS, SWEEP_BUDGET_SEC, FAR_SLOWER = 16, 6.0, 4
COPY_BYTES, COPY_REPETITIONS = 64 << 20, 5
BUSY_LOAD_PER_CORE = 0.5
ENCODER = "encoder"
MAX_DIFFERENCE = 1e-3  # of an encoder's outputs, where engine and CPU are those of the recording
MIN_AGREEING_PREFIX = 0.5  # mean over the prompts, on another engine or CPU


class CannotRun(Exception):
    """The test itself cannot run: no bundle here, no engine, engine refuses the model."""


# --------------------------------------------------------------------------------
# The bundle


def verify_sums(bundle: Path) -> list[str]:
    """What is wrong with the bundle's files: damaged, missing, not covered. Empty when all is well.

    Only `log/` may hold files that SHA256SUMS does not cover: what depends on time and machine.
    """
    sums, faults = read_sums(bundle), []
    for name, digest in sorted(sums.items()):
        path = bundle / name
        if path.is_symlink() or not path.is_file():
            faults.append(name + " is missing")
        elif sha256_file(path) != digest:
            faults.append(name + " is damaged")
    for folder, folders, names in os.walk(str(bundle)):
        relative = Path(folder).relative_to(bundle)
        if relative == Path():
            folders[:] = [name for name in folders if name != LOG]
        paths = [(relative / name).as_posix() for name in names]
        known = {SUMS, "model.sig", *sums}  # a signature covers SHA256SUMS, not the other way
        faults += [path + " is not covered by " + SUMS for path in paths if path not in known]
    return faults


def read_sums(bundle: Path) -> dict[str, str]:
    """File name -> SHA-256, from SHA256SUMS in GNU coreutils' format."""
    try:
        lines = (bundle / SUMS).read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise CannotRun(f"{bundle} is no bundle: {SUMS} ({error})") from None
    sums = {}
    for line in lines:
        digest, _, name = line.partition("  ")
        if len(digest) != 64 or not is_inside(name):
            raise CannotRun(f"{SUMS} of {bundle} has a bad line: {line!r}")
        sums[name] = digest
    return sums


def is_inside(name: str) -> bool:
    """Whether a relative path stays inside its folder."""
    return bool(name) and not Path(name).is_absolute() and ".." not in Path(name).parts


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def read_profile(bundle: Path) -> dict[str, Any]:
    """profile.json: model file, threads, context, KV type, GPU layers, stop texts, thresholds."""
    try:
        profile = json.loads((bundle / PROFILE).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CannotRun(f"{bundle} is no bundle: {PROFILE} ({error})") from None
    if not isinstance(profile, dict) or profile.get("schema") != PROFILE_SCHEMA:
        raise CannotRun(f"{bundle / PROFILE} is of another version")
    if not is_inside(str(profile.get("model_file", ""))):
        raise CannotRun(f"{bundle / PROFILE} names no model file of the bundle")
    return profile


def read_prompts(bundle: Path) -> list[dict[str, Any]]:
    try:
        lines = (bundle / PROMPTS).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise CannotRun(f"{bundle / PROMPTS} cannot be read: {error}") from None


# --------------------------------------------------------------------------------
# Engines


@dataclass(frozen=True)
class Answer:
    """One greedy answer. `raw_text` shows control tokens too; the stop token is part of neither."""

    prompt_token_ids: list[int]
    token_ids: list[int]
    text: str
    raw_text: str
    stopped: bool
    ttft_sec: float


class Engine(Protocol):
    """What runs a model here. `features` names the build and CPU features that decide rounding."""

    name: str
    version: str
    features: str

    def load(self, model: Path, profile: dict[str, Any], context: int, threads: int) -> None:
        """Load the model; `CannotRun` with the engine's reason when it refuses."""

    def answer(self, prompt: str, add_special: bool, max_new_tokens: int) -> Answer:
        """Greedy answer to a rendered prompt."""

    def set_threads(self, threads: int) -> None:
        """Use this many threads from now on."""

    def prefill_sec(self, count: int) -> float:
        """Time to process a prompt of `count` tokens in an empty context."""

    def decode_sec(self, count: int) -> float:
        """Time to process `count` tokens one by one in an empty context."""

    def close(self) -> None:
        """Give everything back."""


class LlamaCpp:
    """llama.cpp through llama-cpp-python's C bindings (greedy sampling in C, no numpy)."""

    name = "llama-cpp-python"
    install = "pip install llama-cpp-python{version}"
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
        if profile.get("adapter_file"):
            self._apply_adapter(model.with_name(str(profile["adapter_file"])))
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
            token_ids=ids,
            text=self._text(ids, special=False),
            raw_text=self._text(ids, special=True),
            stopped=self._is_stop(token),
            ttft_sec=ttft_sec,
        )

    def set_threads(self, threads: int) -> None:
        self._lib.llama_set_n_threads(self._context, threads, threads)

    def prefill_sec(self, count: int) -> float:
        return self._time(lambda: self._decode(self._some_tokens(count)))

    def decode_sec(self, count: int) -> float:
        def one_by_one() -> None:
            for token in self._some_tokens(count):
                self._decode([token])

        return self._time(one_by_one)

    def close(self) -> None:
        lib = self._lib
        if self._sampler:
            lib.llama_sampler_free(self._sampler)
        if self._context:
            lib.llama_free(self._context)
        if self._model:
            lib.llama_model_free(self._model)
        self._model = self._context = self._sampler = None

    def _time(self, work: Callable[[], None]) -> float:
        self._clear()
        start = time.perf_counter()
        work()
        self._lib.llama_synchronize(self._context)
        return time.perf_counter() - start

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


class OnnxDecoder:
    """A decoder in onnxruntime, with the tokenizer that lies beside the model file.

    Works on every graph with `input_ids` and a KV cache of `past_key_values.*` and `present.*`.
    """

    name = "onnxruntime"
    install = "pip install onnxruntime{version} tokenizers"

    def __init__(self) -> None:
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
            token_ids=ids,
            text=self._tokenizer.decode(ids, skip_special_tokens=True),
            raw_text=self._tokenizer.decode(ids, skip_special_tokens=False),
            stopped=token in self._stops,
            ttft_sec=ttft_sec,
        )

    def prefill_sec(self, count: int) -> float:
        self._clear()
        start = time.perf_counter()
        self._run(self._some_tokens(count))
        return time.perf_counter() - start

    def decode_sec(self, count: int) -> float:
        self._clear()
        start = time.perf_counter()
        for token in self._some_tokens(count):
            self._run([token])
        return time.perf_counter() - start

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
        return int(
            config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]
        )

    def _some_tokens(self, count: int) -> list[int]:
        size = int(self._tokenizer.get_vocab_size())
        return [(31 + 7919 * index) % size for index in range(count)]

    def _tokenize(self, text: str, add_special: bool) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=add_special).ids)


class OnnxEncoder:
    """An encoder in onnxruntime: `encoder.json` beside the graph says what its rows mean."""

    name = "onnxruntime"

    def __init__(self, model: Path, threads: int) -> None:
        try:
            import numpy
            import onnxruntime
            import tokenizers
        except ImportError as error:
            raise CannotRun(f"{error}; get it with: {OnnxDecoder.install}") from None
        self._np: Any = numpy
        self.version = str(onnxruntime.__version__)
        self.features = " ".join([platform.machine(), *cpu_features()])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4
        try:
            self.facts = json.loads((model.parent / "encoder.json").read_text(encoding="utf-8"))
            self._tokenizer = tokenizers.Tokenizer.from_file(str(model.parent / "tokenizer.json"))
            self._tokenizer.enable_truncation(int(self.facts["max_tokens"]))
            self._tokenizer.no_padding()
            self._session = onnxruntime.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise CannotRun(f"onnxruntime refuses {model.name}: {error}") from None

    def rows(self, texts: list[Any]) -> list[list[float]]:
        """The graph's output for each text or pair of texts, flat."""
        np = self._np
        found = [
            self._tokenizer.encode(text) if isinstance(text, str) else self._tokenizer.encode(*text)
            for text in texts
        ]
        longest = max(len(item.ids) for item in found)
        columns = {
            "input_ids": ("ids", int(self.facts["pad_token_id"])),
            "attention_mask": ("attention_mask", 0),
            "token_type_ids": ("type_ids", 0),
        }
        feed = {}
        for name in self.facts["inputs"]:
            field_name, fill = columns[name]
            padded = [
                [*getattr(item, field_name), *[fill] * (longest - len(item.ids))] for item in found
            ]
            feed[name] = np.array(padded, dtype=np.int64)
        made = self._session.run(None, feed)[0]
        return [
            (row if row.ndim == 1 else row[: len(item.ids)]).astype(float).ravel().tolist()
            for row, item in zip(made, found)  # noqa: B905 (3.8)
        ]

    def label(self, row: list[float]) -> str:
        """The likeliest label of a classifier's row; nothing for other kinds."""
        if self.facts["task"] != "sequence-classification":
            return ""
        return str(self.facts["labels"][max(range(len(row)), key=lambda i: row[i])])


ENGINES: dict[str, tuple[Any, ...]] = {".gguf": (LlamaCpp,), ".onnx": (OnnxDecoder,)}


def find_engine(profile: dict[str, Any]) -> Engine:
    """The first engine for the bundle's kind of model that this machine has."""
    reasons = []
    for engine in ENGINES.get(Path(profile["model_file"]).suffix, ()):
        try:
            found: Engine = engine()
            return found
        except (ImportError, OSError, RuntimeError) as error:
            wanted = profile.get("recorded", {}).get("version")
            how = engine.install.format(version="==" + wanted if wanted else "")
            reasons.append(f"{engine.name} is not there ({error}); get it with: {how}")
    raise CannotRun("no engine found: " + "; ".join(reasons))


# --------------------------------------------------------------------------------
# The machine


def usable_cores() -> int:
    """Cores that this process may use: affinity and cgroup quota count, not what the CPU has."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:
        cores = os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        cores = min(cores, max(1, -(-int(quota) // int(period))))
    except (OSError, ValueError):
        pass
    return cores


def load_per_core() -> float:
    try:
        return os.getloadavg()[0] / usable_cores()
    except OSError:
        return 0.0


def cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.lower().startswith(("model name", "hardware")):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_features() -> list[str]:
    """Instruction sets that decide which kernels onnxruntime takes, and so how they round."""
    wanted = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "amx_int8", "asimddp", "i8mm", "sve")
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    flags = next((line for line in lines if line.lower().startswith(("flags", "features"))), "")
    return [name for name in wanted if name in flags.split()]


def peak_rss_bytes() -> int:
    """Largest resident set of this process so far."""
    try:
        for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def copy_bandwidth() -> float:
    """Memory bandwidth in bytes per second: bytes read plus bytes written by memmove.

    The best of several copies of 64 MiB, by one thread and by one per core (ctypes calls run
    outside the interpreter's lock). A copy reaches some 60 to 90 % of the figure on a data sheet,
    so limits scaled with it lean to the mild side.
    """
    source, sink = bytearray(COPY_BYTES), bytearray(COPY_BYTES)
    from_, to = ((ctypes.c_char * COPY_BYTES).from_buffer(buffer) for buffer in (source, sink))
    ctypes.memset(from_, 1, COPY_BYTES)  # so that the pages are real ones, not the shared zero page
    ctypes.memset(to, 2, COPY_BYTES)
    best_sec = float("inf")
    for threads in sorted({1, usable_cores()}):
        for _ in range(COPY_REPETITIONS):
            best_sec = min(best_sec, _copy_sec(from_, to, threads))
    return 2 * COPY_BYTES / best_sec


def _copy_sec(source: Any, sink: Any, threads: int) -> float:
    part = COPY_BYTES // threads
    starts = (ctypes.addressof(sink), ctypes.addressof(source))

    def copy(index: int) -> None:
        ctypes.memmove(starts[0] + index * part, starts[1] + index * part, part)

    workers = [threading.Thread(target=copy, args=(index,)) for index in range(threads)]
    start = time.perf_counter()
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return time.perf_counter() - start


# --------------------------------------------------------------------------------
# Checks


@dataclass(frozen=True)
class Check:
    """One figure against its limit. `limit` is None where the profile sets none."""

    name: str
    value: Any = None
    limit: Any = None
    unit: str = ""
    status: str = NOT_MEASURED
    note: str = ""


def at_least(name: str, value: float, limit: Any, unit: str, note: str = "") -> Check:
    status = NO_LIMIT if limit is None else PASSED if value >= limit else FAILED
    return Check(name, value, limit, unit, status, note)


def at_most(name: str, value: float, limit: Any, unit: str, note: str = "") -> Check:
    status = NO_LIMIT if limit is None else PASSED if value <= limit else FAILED
    return Check(name, value, limit, unit, status, note)


CHECKS = (
    "digests",
    "load_sec",
    "prompt_token_ids",
    "equal_answers",
    "agreeing_prefix",
    "stop_token",
    "task_score",
    "prefill_tokens_per_sec",
    "decode_tokens_per_sec",
    "ttft_sec",
    "peak_rss_bytes",
)


ENCODER_CHECKS = (
    "digests",
    "load_sec",
    "equal_labels",
    "max_output_difference",
    "task_score",
    "latency_sec",
    "texts_per_sec",
    "peak_rss_bytes",
)


def check_digests(bundle: Path) -> Check:
    faults = verify_sums(bundle)
    note = "; ".join(faults[:8]) + ("; …" if len(faults) > 8 else "")
    return replace(at_most("digests", len(faults), 0, "faults"), note=note)


def agreeing_prefix(expected: list[Any], actual: list[Any]) -> float:
    """Share of the longer answer over which both agree from the start (1.0 for two empty ones)."""
    longer, agree = max(len(expected), len(actual)), 0
    while agree < min(len(expected), len(actual)) and expected[agree] == actual[agree]:
        agree += 1
    return agree / longer if longer else 1.0


def check_answers(
    prompts: list[dict[str, Any]],
    answers: list[Answer],
    same_engine: bool,
    thresholds: dict[str, Any],
) -> list[Check]:
    """Answers against the recorded ones.

    Recorded on this engine build and these CPU features, all must be equal; elsewhere, where
    kernels round differently, the profile's `min_answers_equal`, and half of the tokens must agree.
    """
    pairs = [(row, answers[index]) for index, row in enumerate(prompts)]
    tokens_off = [r["id"] for r, a in pairs if r["token_ids"] != a.prompt_token_ids]
    shares = [agreeing_prefix(r["expected_token_ids"], a.token_ids) for r, a in pairs]
    differ = [
        "{} agrees over {:.0%}".format(row["id"], shares[index])
        for index, (row, answer) in enumerate(pairs)
        if shares[index] < 1 or row["expected"] != answer.text
    ]
    equal_limit = 1.0 if same_engine else thresholds.get("min_answers_equal")
    notes = [] if same_engine else ["recorded on another engine or CPU"]
    if len(differ) > 8:
        differ[8:] = ["…"]
    equal = sum(
        r["expected"] == a.text and r["expected_token_ids"] == a.token_ids for r, a in pairs
    )
    return [
        at_most("prompt_token_ids", len(tokens_off), 0, "prompts differ", ", ".join(tokens_off)),
        at_least(
            "equal_answers", equal / len(pairs), equal_limit, "share", "; ".join(notes + differ)
        ),
        at_least(
            "agreeing_prefix",
            statistics.mean(shares),
            1.0 if same_engine else MIN_AGREEING_PREFIX,
            "share",
        ),
    ]


def check_stops(
    prompts: list[dict[str, Any]], answers: list[Answer], stop_texts: list[str], same_engine: bool
) -> Check:
    """Answers that stopped when recorded stop again; no answer contains a stop token's text."""
    faults = []
    for index, row in enumerate(prompts):
        leaked = [text for text in stop_texts if text and text in answers[index].raw_text]
        if leaked:
            faults.append("{} contains {}".format(row["id"], leaked[0]))
        elif row["stopped"] and not answers[index].stopped:
            faults.append("{} did not stop".format(row["id"]))
    stopped = sum(answer.stopped for answer in answers)
    note = "; ".join(faults) or f"{stopped} of {len(answers)} answers stopped by themselves"
    # Elsewhere a single answer may run on where rounding differs; most must still stop.
    allowed = 0 if same_engine else len(prompts) // 10
    return at_most("stop_token", len(faults), allowed, "faults", note)


def check_task(
    prompts: list[dict[str, Any]], answers: list[Answer], thresholds: dict[str, Any]
) -> Check:
    """Share of answers equal to the task's true answer (JSON by value, other text stripped).

    The limit is the profile's `min_task_score_share` of the score of the recorded answers.
    """
    scored = [index for index, row in enumerate(prompts) if row.get("reference") is not None]
    if not scored:
        return Check("task_score", note="no prompt of this bundle has a true answer")
    right = sum(same_value(prompts[i]["reference"], answers[i].text) for i in scored)
    recorded = sum(same_value(prompts[i]["reference"], prompts[i]["expected"]) for i in scored)
    limit = scaled(thresholds.get("min_task_score_share"), recorded / len(scored))
    note = f"{right} of {len(scored)} right, {recorded} when recorded"
    return at_least("task_score", right / len(scored), limit, "share", note)


def same_value(reference: str, text: str) -> bool:
    try:
        return bool(json.loads(reference) == json.loads(text))
    except ValueError:
        return reference.strip() == text.strip()


# --------------------------------------------------------------------------------
# Speed


@dataclass(frozen=True)
class Speed:
    """Tokens per second: the best and the median of several repetitions of `tokens` tokens."""

    tokens: int
    best: float
    median: float


def measure_speed(time_tokens: Callable[[int], float], most_tokens: int, repetitions: int) -> Speed:
    """Warm up with a few tokens, then time as many as fit the time budget, several times."""
    few = min(8, most_tokens)
    rate = few / time_tokens(few)
    tokens = int(max(few, min(most_tokens, rate * SPEED_BUDGET_SEC / (repetitions + 1))))
    rates = []
    start = time.perf_counter()
    for _ in range(repetitions):
        rates.append(tokens / time_tokens(tokens))
        if time.perf_counter() - start > SPEED_BUDGET_SEC:
            break
    return Speed(tokens, max(rates), statistics.median(rates))


def thread_counts(cores: int, wanted: int) -> list[int]:
    """All counts from one to all cores; on many cores powers of two, the wanted count and all."""
    if cores <= 8:
        return list(range(1, cores + 1))
    powers = {1 << bit for bit in range(cores.bit_length())}
    return sorted(count for count in powers | {wanted, cores} if count <= cores)


def sweep_threads(engine: Engine, counts: list[int]) -> dict[int, float]:
    """Decode tokens/s by thread count, until the time budget is spent.

    An engine's threads wait for each other at every layer, so one thread more than there are free
    cores can cost a hundredfold: a count that is far slower than a smaller one ends the sweep.
    """
    rates: dict[int, float] = {}
    start = time.perf_counter()
    for count in counts:
        left = SWEEP_BUDGET_SEC - (time.perf_counter() - start)
        if left <= 0:
            break
        engine.set_threads(count)
        engine.decode_sec(1)
        rates[count] = 2 / engine.decode_sec(2)
        if rates[count] < max(rates.values()) / FAR_SLOWER:
            break
        tokens = int(max(2, min(SWEEP_TOKENS, rates[count] * left / (2 * len(counts)))))
        rates[count] = max(tokens / engine.decode_sec(tokens) for _ in range(2))
    return rates


def scaled(limit: Any, scale: float) -> Any:
    return None if limit is None else limit * scale


def speed_scales(profile: dict[str, Any], bandwidth: float) -> dict[str, float]:
    """How much of the target's decode and prefill speed this machine owes; never more than all."""
    target_bandwidth = profile.get("memory_bandwidth_bytes_per_sec") or bandwidth
    target_cores = profile.get("cores") or usable_cores()
    decode = min(1.0, bandwidth / target_bandwidth)
    return {"decode": decode, "prefill": min(decode, usable_cores() / target_cores)}


def check_speed(
    engine: Engine,
    context: int,
    thresholds: dict[str, Any],
    scales: dict[str, float],
    repetitions: int,
) -> tuple[list[Check], dict[str, Any]]:
    """Prefill and decode tokens/s against the scaled limits; what fails is measured once more."""
    wanted = {
        "prefill": (engine.prefill_sec, min(PREFILL_TOKENS, context // 2)),
        "decode": (engine.decode_sec, min(DECODE_TOKENS, context // 2)),
    }
    checks, details = [], {}
    for kind, (time_tokens, most) in wanted.items():
        name = kind + "_tokens_per_sec"
        limit = scaled(thresholds.get("min_" + name), scales[kind])
        for _attempt in range(2):
            speed = measure_speed(time_tokens, most, repetitions)
            note = f"{speed.tokens} tokens; median {speed.median:.4g}"
            check = at_least(name, speed.best, limit, "tokens/s", note)
            if check.status != FAILED:
                break
        checks.append(check)
        details[name] = asdict(speed)
    return checks, details


# --------------------------------------------------------------------------------
# The whole test


@dataclass
class Result:
    """What is printed and written as JSON."""

    model: str = ""
    target: str = ""
    checks: list[Check] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    threads: dict[str, Any] = field(default_factory=dict)
    speed: dict[str, Any] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return FAILED if any(check.status == FAILED for check in self.checks) else PASSED

    def as_json(self) -> dict[str, Any]:
        return {"schema": 1, "verdict": self.verdict, **asdict(self)}


def run_test(bundle: Path, threads: int | None, quick: bool) -> Result:
    """Every check, in an order in which nothing is loaded before its digest is verified."""
    result, start = Result(), time.perf_counter()
    digests = check_digests(bundle)
    names: tuple[str, ...] = CHECKS
    result.checks.append(digests)
    if digests.status == PASSED:
        profile, prompts = read_profile(bundle), read_prompts(bundle)
        result.model, result.target = profile["model"], profile["target"]
        if profile.get("kind") == ENCODER:
            names = ENCODER_CHECKS
            _measure_encoder(bundle, profile, prompts, threads, quick, result)
        else:
            engine = find_engine(profile)
            try:
                _measure(bundle, profile, prompts, engine, threads, quick, result)
            finally:
                engine.close()
    else:
        result.machine = machine_facts()
    measured = {check.name: check for check in result.checks}
    result.checks = [measured.get(name, Check(name)) for name in names]
    result.machine["test_sec"] = time.perf_counter() - start
    return result


def _measure(
    bundle: Path,
    profile: dict[str, Any],
    prompts: list[dict[str, Any]],
    engine: Engine,
    threads: int | None,
    quick: bool,
    result: Result,
) -> None:
    thresholds, context = profile.get("thresholds", {}), int(profile["context_length"])
    result.machine = machine_facts()
    result.engine = {"name": engine.name, "version": engine.version, "features": engine.features}
    same = result.engine == profile.get("recorded")
    wanted = min(int(profile.get("threads") or usable_cores()), usable_cores())
    start = time.perf_counter()
    engine.load(bundle / profile["model_file"], profile, context, threads or wanted)
    load = at_most("load_sec", time.perf_counter() - start, thresholds.get("max_load_sec"), "s")
    result.threads = choose_threads(engine, wanted, threads, quick)
    answers = ask(engine, prompts)
    result.answers = [
        {"id": row["id"], "text": answers[i].text, "equal": row["expected"] == answers[i].text}
        for i, row in enumerate(prompts)
    ]
    result.checks += [load, *check_answers(prompts, answers, same, thresholds)]
    result.checks.append(check_stops(prompts, answers, profile.get("stop_texts", []), same))
    result.checks.append(check_task(prompts, answers, thresholds))
    rss_bytes = peak_rss_bytes()  # before the bandwidth test, whose buffers are not the model's
    bandwidth = copy_bandwidth()
    scales = speed_scales(profile, bandwidth)
    result.machine.update(copy_bandwidth_bytes_per_sec=bandwidth, speed_limit_scales=scales)
    repetitions = 1 if quick else REPETITIONS
    checks, result.speed = check_speed(engine, context, thresholds, scales, repetitions)
    result.checks += checks
    result.checks.append(
        check_ttft(engine, prompts[0], thresholds.get("max_ttft_sec"), scales, repetitions)
    )
    rss_limit = thresholds.get("max_peak_rss_bytes")
    result.checks.append(at_most("peak_rss_bytes", rss_bytes, rss_limit, "bytes"))
    result.machine["load_per_core_after"] = load_per_core()


def _measure_encoder(
    bundle: Path,
    profile: dict[str, Any],
    prompts: list[dict[str, Any]],
    threads: int | None,
    quick: bool,
    result: Result,
) -> None:
    """An encoder's labels and outputs against the recorded ones, then its speed."""
    thresholds, result.machine = profile.get("thresholds", {}), machine_facts()
    used = threads or min(int(profile.get("threads") or usable_cores()), usable_cores())
    start = time.perf_counter()
    engine = OnnxEncoder(bundle / profile["model_file"], used)
    load = at_most("load_sec", time.perf_counter() - start, thresholds.get("max_load_sec"), "s")
    result.engine = {"name": engine.name, "version": engine.version, "features": engine.features}
    same = result.engine == profile.get("recorded")
    result.threads = {"profile": used, "used": used}
    rows = [engine.rows([text_of(row)])[0] for row in prompts]
    differ = [
        max((abs(a - b) for a, b in zip(row["expected_output"], made)), default=0.0)  # noqa: B905
        for row, made in zip(prompts, rows)  # noqa: B905 (3.8)
    ]
    labels = [engine.label(made) for made in rows]
    equal = sum(row["expected"] == label for row, label in zip(prompts, labels))  # noqa: B905
    limit = 1.0 if same else thresholds.get("min_answers_equal")
    note = "" if same else "recorded on another engine or CPU"
    result.checks += [
        load,
        at_least("equal_labels", equal / len(prompts), limit, "share", note),
        at_most("max_output_difference", max(differ), MAX_DIFFERENCE if same else None, ""),
        check_labels(prompts, labels, thresholds),
    ]
    rss_bytes = peak_rss_bytes()
    repetitions = 1 if quick else REPETITIONS
    result.checks += check_encoder_speed(engine, prompts, repetitions, result)
    rss_limit = thresholds.get("max_peak_rss_bytes")
    result.checks.append(at_most("peak_rss_bytes", rss_bytes, rss_limit, "bytes"))
    result.machine["load_per_core_after"] = load_per_core()


def text_of(row: dict[str, Any]) -> Any:
    """A row's text, or its pair of texts."""
    pair = row.get("text_pair")
    return row["text"] if pair is None else (row["text"], pair)


def check_labels(
    prompts: list[dict[str, Any]], labels: list[str], thresholds: dict[str, Any]
) -> Check:
    """Share of texts whose label is the true one, against that share when recorded."""
    scored = [i for i, row in enumerate(prompts) if row.get("reference") is not None]
    if not scored:
        return Check("task_score", note="no text of this bundle has a true label")
    right = sum(prompts[i]["reference"] == labels[i] for i in scored)
    recorded = sum(prompts[i]["reference"] == prompts[i]["expected"] for i in scored)
    limit = scaled(thresholds.get("min_task_score_share"), recorded / len(scored))
    note = f"{right} of {len(scored)} right, {recorded} when recorded"
    return at_least("task_score", right / len(scored), limit, "share", note)


def check_encoder_speed(
    engine: OnnxEncoder, prompts: list[dict[str, Any]], repetitions: int, result: Result
) -> list[Check]:
    """Median latency of one text, and texts per second eight at a time."""
    texts = [text_of(row) for row in prompts]
    batch = [texts[i % len(texts)] for i in range(8)]
    singles, batches = [], []
    for _ in range(repetitions):
        for text in texts:
            start = time.perf_counter()
            engine.rows([text])
            singles.append(time.perf_counter() - start)
        start = time.perf_counter()
        engine.rows(batch)
        batches.append(len(batch) / (time.perf_counter() - start))
    latency, speed = statistics.median(singles), max(batches)
    result.speed = {"latency_sec": latency, "texts_per_sec": speed, "batch_size": len(batch)}
    return [
        at_most("latency_sec", latency, None, "s", f"median of {len(singles)} texts, one by one"),
        at_least("texts_per_sec", speed, None, "texts/s", f"{len(batch)} texts at a time"),
    ]


def check_ttft(
    engine: Engine, row: dict[str, Any], limit: Any, scales: dict[str, float], repetitions: int
) -> Check:
    """Time to first token: the best of several, so that load elsewhere does not decide."""
    times = [
        engine.answer(row["prompt"], row["add_special"], 1).ttft_sec for _ in range(repetitions)
    ]
    note = "prompt of {} tokens".format(len(row["token_ids"]))
    return at_most("ttft_sec", min(times), scaled(limit, 1 / scales["prefill"]), "s", note)


def ask(engine: Engine, prompts: list[dict[str, Any]]) -> list[Answer]:
    return [
        engine.answer(row["prompt"], row["add_special"], row["max_new_tokens"]) for row in prompts
    ]


def choose_threads(engine: Engine, wanted: int, given: int | None, quick: bool) -> dict[str, Any]:
    """Find the best thread count and set it, unless one was given; all else is measured with it.

    A quick sweep tries one thread and the wanted count.
    """
    counts = sorted({1, wanted}) if quick else thread_counts(usable_cores(), wanted)
    rates = sweep_threads(engine, counts)
    best = max(rates, key=lambda count: rates[count]) if rates else None
    used = given or best or wanted
    engine.set_threads(used)
    return {
        "profile": wanted,
        "best": best,
        "used": used,
        "decode_tokens_per_sec": {str(count): rate for count, rate in rates.items()},
        "not_tried": [count for count in counts if count not in rates],
    }


def machine_facts() -> dict[str, Any]:
    return {
        "architecture": platform.machine(),
        "cpu": cpu_name(),
        "usable_cores": usable_cores(),
        "python": platform.python_version(),
        "load_per_core_before": load_per_core(),
    }


def record(bundle: Path, threads: int | None) -> dict[str, Any]:
    """Answer the bundle's prompts and write the answers into prompts.jsonl as the expected ones.

    Run while a bundle is made, before its digests are taken. Returns which engine answered, which
    belongs into profile.json as `recorded`.
    """
    profile, prompts = read_profile(bundle), read_prompts(bundle)
    if profile.get("kind") == ENCODER:
        return record_encoder(bundle, profile, prompts, threads)
    engine = find_engine(profile)
    # The answers do not depend on the context's size, so the smallest that holds them will do.
    needed = max(len(row["token_ids"]) + row["max_new_tokens"] for row in prompts) + 1
    context = min(int(profile["context_length"]), -(-needed // 256) * 256)
    if needed > context:
        raise CannotRun(f"a prompt and its answer need {needed} tokens of context")
    try:
        engine.load(bundle / profile["model_file"], profile, context, threads or usable_cores())
        choose_threads(engine, usable_cores(), threads, quick=True)
        answers = ask(engine, prompts)
    finally:
        engine.close()
    for index, row in enumerate(prompts):
        answer = answers[index]
        row.update(
            expected=answer.text, expected_token_ids=answer.token_ids, stopped=answer.stopped
        )
    write_prompts(bundle, prompts)
    return {"name": engine.name, "version": engine.version, "features": engine.features}


def record_encoder(
    bundle: Path, profile: dict[str, Any], prompts: list[dict[str, Any]], threads: int | None
) -> dict[str, Any]:
    """Write an encoder's labels and outputs into prompts.jsonl as the expected ones."""
    engine = OnnxEncoder(bundle / profile["model_file"], threads or usable_cores())
    for row in prompts:
        made = engine.rows([text_of(row)])[0]
        row.update(expected=engine.label(made), expected_output=[round(x, 6) for x in made])
    write_prompts(bundle, prompts)
    return {"name": engine.name, "version": engine.version, "features": engine.features}


def write_prompts(bundle: Path, prompts: list[dict[str, Any]]) -> None:
    lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in prompts]
    (bundle / PROMPTS).write_text("".join(lines), encoding="utf-8")


# --------------------------------------------------------------------------------
# Command line


def table(result: Result) -> str:
    """The result for a reader at a terminal."""
    rows = [("check", "value", "limit", "", "note")]
    rows += [
        (c.name, shown(c.value, c.unit), shown(c.limit, c.unit), c.status, c.note)
        for c in result.checks
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([row[i].ljust(widths[i]) for i in range(4)] + [row[4]]).rstrip() for row in rows
    ]
    lines.append("")
    if result.threads.get("best"):
        rates = result.threads["decode_tokens_per_sec"].items()
        tried = ", ".join(f"{count}: {rate:.4g}" for count, rate in rates)
        lines.append(
            "best thread count {best} (profile {profile}); decode tokens/s by count: ".format(
                **result.threads
            )
            + tried
        )
    if "speed_limit_scales" in result.machine:
        lines.append(
            "memory bandwidth {:.1f} GB/s; limits scaled: decode by {decode:.2f}, prefill by "
            "{prefill:.2f}".format(
                result.machine["copy_bandwidth_bytes_per_sec"] / 1e9,
                **result.machine["speed_limit_scales"],
            )
        )
    load = result.machine["load_per_core_before"]
    if load > BUSY_LOAD_PER_CORE:
        lines.append(f"busy machine: load per core {load:.1f}; speeds read low")
    name = " for ".join(part for part in (result.model, result.target) if part)
    lines.append(
        "smoke test {verdict} in {test_sec:.1f} s on this machine ({architecture}, {cpu}): ".format(
            verdict=result.verdict, **result.machine
        )
        + name
    )
    return "\n".join(lines)


def shown(value: Any, unit: str) -> str:
    if value is None:
        return "-"
    if unit == "bytes":
        return f"{value / 1e6:.0f} MB"
    if unit == "share":
        return f"{value:.1%}"
    number = f"{value:.0f}" if isinstance(value, int) or value >= 1000 else f"{value:.3g}"
    return f"{number} {unit}"


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description="Prove that this bundle works here: digests, answers, stop tokens, speed.",
        epilog="exit code: 0 passed, 1 failed, 2 cannot run",
    )
    here = Path(__file__).resolve().parent
    parser.add_argument(
        "--bundle", type=Path, default=here, help="the bundle (default: this folder)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the result here as JSON")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="threads (default: the best found)"
    )
    parser.add_argument("--quick", action="store_true", help="one repetition, no thread sweep")
    parser.add_argument("--record", action="store_true", help="record the answers (while building)")
    options = parser.parse_args(arguments)
    if options.threads is not None and options.threads < 1:
        parser.error("--threads must be at least 1")
    return options


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    try:
        if options.record:
            data, passed = record(options.bundle, options.threads), True
            print("recorded with {name} {version}".format(**data))
        else:
            result = run_test(options.bundle, options.threads, options.quick)
            data, passed = result.as_json(), result.verdict == PASSED
            print(table(result))
        if options.json:
            text = json.dumps(data, indent=2, ensure_ascii=False)
            options.json.write_text(text + "\n", encoding="utf-8")
    except (CannotRun, OSError, KeyError) as error:
        print(f"smoke test cannot run: {error}", file=sys.stderr)
        return EXIT_CANNOT_RUN
    return EXIT_PASSED if passed else EXIT_FAILED


if __name__ == "__main__":
    sys.exit(main())
