"""llama.cpp's `llama-server`, started on a free loopback port for this test alone."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from .bundle import CannotRun, adapter_of
from .child import complaint, find_program, output_of, start, stop
from .engine import QUICK_RESTART_SEC, Answer, NotThere, Work
from .http_json import Refused, call
from .machine import cpu_features
from .processes import peak_rss_bytes

READY_TIMEOUT_SEC = 1800.0
FILLER = "The quick brown fox jumps over the lazy dog. Pack my box with five dozen liquor jugs. "


class LlamaServer:
    """Prompts go to it as token ids, so that no other tokenization or template comes between."""

    name = "llama-server"
    install = "build llama.cpp (https://github.com/ggml-org/llama.cpp) and put llama-server on PATH"

    def __init__(self) -> None:
        program = find_program("llama-server")
        if program is None:
            raise NotThere("llama-server is not on PATH")
        self._program = program
        self._options = output_of([program, "--help"])
        self.version = llama_version(output_of([program, "--version"]))
        self.features = ""
        self.sweeps = False
        self._process: subprocess.Popen[bytes] | None = None
        self._command: list[str] = []
        self._log: Any = tempfile.TemporaryFile()  # noqa: SIM115 (lives as long as this)
        self._url, self._threads = "", 0
        self._stop_texts: list[str] = []
        self._stops: set[int] = set()
        self._filler: list[int] = []

    @property
    def pid(self) -> int | None:
        return self._process.pid if self._process else None

    def load(self, model: Path, profile: dict[str, Any], context: int, threads: int) -> None:
        self._command = [self._program, *server_options(self._options, model, profile, context)]
        self._stop_texts = list(profile.get("stop_texts", []))
        begin = time.perf_counter()
        self._start(threads)
        self.sweeps = time.perf_counter() - begin < QUICK_RESTART_SEC
        self.features = logged_features(self._logged())
        ends = [self._tokenize(text, False) for text in self._stop_texts]
        self._stops = {ids[0] for ids in ends if len(ids) == 1}
        self._filler = self._tokenize(FILLER, False)

    def set_threads(self, threads: int) -> None:
        if threads != self._threads:
            self._start(threads)

    def answer(self, prompt: str, add_special: bool, max_new_tokens: int) -> Answer:
        begin = time.perf_counter()
        prompt_ids = self._tokenize(prompt, add_special)
        # One more than wanted tells whether the answer stops there.
        reply = self._complete(prompt_ids, max_new_tokens + 1)
        wall_sec = time.perf_counter() - begin
        ids = [int(token) for token in reply["tokens"]]
        # Generation is counted from the first token on.
        after_first_sec = reply["timings"]["predicted_ms"] / 1000 if len(ids) > 1 else 0.0
        by_server = reply.get("stop_type") == "eos" or bool(reply.get("stopped_eos"))
        end = len(ids) - 1 if by_server else len(ids)
        end = next((i for i, token in enumerate(ids) if token in self._stops), end)
        kept = ids[:end][:max_new_tokens]
        raw_text = self._detokenize(kept)
        return Answer(
            prompt_token_ids=prompt_ids,
            prompt_tokens=len(prompt_ids),
            token_ids=kept,
            text=str(reply["content"]) if by_server and len(kept) == len(ids) - 1 else raw_text,
            raw_text=raw_text,
            stopped=end < len(ids) and end <= max_new_tokens,
            ttft_sec=wall_sec - after_first_sec,
        )

    def prefill(self, count: int) -> Work:
        tokens = (self._filler * (count // len(self._filler) + 1))[:count]
        timings = self._complete(tokens, 1)["timings"]
        return Work(int(timings["prompt_n"]), timings["prompt_ms"] / 1000)

    def decode(self, count: int) -> Work:
        timings = self._complete(self._filler[:4], count + 1, ignore_eos=True)["timings"]
        return Work(max(1, int(timings["predicted_n"]) - 1), timings["predicted_ms"] / 1000)

    def peak_rss(self) -> int | None:
        return peak_rss_bytes(self.pid)

    def close(self) -> None:
        if self._process:
            stop(self._process)
        self._process = None

    def _start(self, threads: int) -> None:
        self.close()
        port = free_port()
        self._url, self._threads = f"http://127.0.0.1:{port}", threads
        own = ["--host", "127.0.0.1", "--port", str(port), "-t", str(threads)]
        self._log.truncate(0)
        self._log.seek(0)
        self._process = start([*self._command, *own], self._log)
        deadline = time.monotonic() + READY_TIMEOUT_SEC
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                self._process = None
                raise CannotRun(f"llama-server refuses the model: {complaint(self._logged())}")
            try:
                call("GET", self._url + "/health", timeout_sec=5.0)
                return
            except CannotRun:  # not listening yet, or 503 while it loads
                time.sleep(0.05)
        raise CannotRun(f"llama-server was not ready after {READY_TIMEOUT_SEC:.0f} s")

    def _complete(self, tokens: list[int], count: int, ignore_eos: bool = False) -> dict[str, Any]:
        body = {
            **{"prompt": tokens, "n_predict": count, "return_tokens": True},
            **{"temperature": 0, "samplers": ["temperature"], "repeat_penalty": 1.0, "n_probs": 0},
            **{"cache_prompt": False, "ignore_eos": ignore_eos, "seed": 1},
        }
        try:
            reply = call("POST", self._url + "/completion", body)
        except Refused as error:
            raise CannotRun(f"llama-server refuses a prompt: {error}") from None
        except CannotRun as error:
            raise CannotRun(f"llama-server died: {complaint(self._logged())} ({error})") from None
        if count > 1 and not reply.get("tokens"):
            raise CannotRun(f"llama-server {self.version} does not return tokens: it is too old")
        return reply

    def _tokenize(self, text: str, add_special: bool) -> list[int]:
        body = {"content": text, "add_special": add_special, "parse_special": True}
        return [int(token) for token in call("POST", self._url + "/tokenize", body)["tokens"]]

    def _detokenize(self, tokens: list[int]) -> str:
        return str(call("POST", self._url + "/detokenize", {"tokens": tokens})["content"])

    def _logged(self) -> str:
        # Not by read(), which would move the position at which the server writes.
        return os.pread(self._log.fileno(), 1 << 22, 0).decode("utf-8", "replace")


def server_options(known: str, model: Path, profile: dict[str, Any], context: int) -> list[str]:
    """The profile as options; those that this version does not know are left out."""
    kv_type = str(profile.get("kv_cache_type", "f16")).lower()
    # As in this process: flash attention only where a quantized V cache needs it.
    attention = "off" if kv_type in ("f16", "f32", "bf16") else "on"
    wanted = [
        (("-m", str(model)), "-m"),
        (("-c", str(context)), "-c"),
        (("-ngl", layers_option(profile)), "-ngl"),
        (("-np", "1"), "-np"),
        (("-b", "512"), "-b"),
        (("-ub", "512"), "-ub"),
        (("-ctk", kv_type), "-ctk"),
        (("-ctv", kv_type), "-ctv"),
        (("-fa", attention), "[on|off|auto]"),
        (("--no-webui",), "--no-webui"),
        (("--no-warmup",), "--no-warmup"),
        (("--cache-ram", "0"), "--cache-ram"),
    ]
    adapter = adapter_of(model, profile)
    own = ["--lora", str(adapter)] if adapter else []
    return own + [part for parts, sign in wanted if sign in known for part in parts]


def layers_option(profile: dict[str, Any]) -> str:
    """Layers on the GPU; older versions take no negative number for all of them."""
    layers = int(profile.get("gpu_layers", 0))
    return str(layers if layers >= 0 else 999)


def llama_version(text: str) -> str:
    """`version: 6123 (abcdef1)` as llama.cpp's programs print it."""
    found = re.search(r"version: (\S+(?: \(\w+\))?)", text)
    return found.group(1) if found else "unknown"


def logged_features(log: str) -> str:
    """Build and CPU features as the server writes them; newer ones keep them to themselves."""
    found = re.search(r"system_info: (.*)", log)
    if found is None:
        return " ".join([platform.machine(), *cpu_features()])
    return re.sub(r"n_threads\S* = [^|]*\| ", "", found.group(1)).strip()


def free_port() -> int:
    """A TCP port on loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
