"""A running Ollama: the model goes in under a trial name, answers raw prompts, and is removed."""

from __future__ import annotations

import os
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from .bundle import CannotRun, adapter_of, bos_text, read_prompts, read_sums, sha256_file
from .engine import QUICK_RESTART_SEC, Answer, NotThere, Work
from .http_json import Refused, call
from .processes import peak_rss_bytes, process_with

PROBE_TIMEOUT_SEC, DEFAULT_PORT = 3.0, 11434
TRIAL_PREFIX = "edgeforge-smoke-"
MOST_REQUESTS = 12  # for one figure; answers that stop soon are added up


class Ollama:
    """Text goes in and comes out: Ollama tells how many tokens, not which."""

    name = "ollama"
    install = "https://ollama.com/download, then: ollama serve"

    def __init__(self) -> None:
        self._url = ollama_url(os.environ.get("OLLAMA_HOST", ""))
        try:
            reply = call("GET", self._url + "/api/version", timeout_sec=PROBE_TIMEOUT_SEC)
        except CannotRun as error:
            raise NotThere(str(error)) from None
        if "version" not in reply:
            raise NotThere(f"what answers at {self._url} is no Ollama")
        self.version = str(reply["version"])
        self.features = ""
        self.sweeps = False
        self._name, self._digest, self._bos = "", "", ""
        self._adds_bos = False
        self._options: dict[str, Any] = {}
        self._samples: list[str] = []
        self._asked = 0

    @property
    def pid(self) -> int | None:
        """The runner, which has the model's digest on its command line; None on another machine."""
        return process_with(f"sha256-{self._digest}") if is_loopback(self._url) else None

    def load(self, model: Path, profile: dict[str, Any], context: int, threads: int) -> None:
        bundle = model.parent
        self._digest = digest_of(model)
        self._options = {
            **{"temperature": 0, "seed": 1, "repeat_penalty": 1.0, "num_ctx": context},
            **{"num_gpu": int(profile.get("gpu_layers", 0))},
            "stop": [text for text in profile.get("stop_texts", []) if text],
        }
        rows = sorted(read_prompts(bundle), key=lambda row: -len(row["expected_token_ids"]))
        self._samples = [row["prompt"] for row in rows]
        self._create(model, adapter_of(model, profile))
        begin = time.perf_counter()
        self._generate("a", 1)
        self.sweeps = time.perf_counter() - begin < QUICK_RESTART_SEC
        self._bos = bos_text(bundle)
        # It adds a BOS of its own, or it does not: counted on a prompt that is nothing else.
        self._adds_bos = bool(self._bos) and self._generate(self._bos, 1)["prompt_eval_count"] > 1

    def set_threads(self, threads: int) -> None:
        self._options["num_thread"] = threads

    def answer(self, prompt: str, add_special: bool, max_new_tokens: int) -> Answer:
        if self._adds_bos and not add_special and prompt.startswith(self._bos):
            prompt = prompt[len(self._bos) :]
        self._forget()
        begin = time.perf_counter()
        reply = self._generate(prompt, max_new_tokens)
        wall_sec = time.perf_counter() - begin
        count = int(reply.get("eval_count", 0))
        after_first_sec = reply.get("eval_duration", 0) / 1e9 if count > 1 else 0.0
        text = str(reply.get("response", ""))
        return Answer(
            prompt_token_ids=None,
            prompt_tokens=int(reply.get("prompt_eval_count", 0)),
            token_ids=None,
            text=text,
            raw_text=text,
            stopped=reply.get("done_reason") == "stop",
            ttft_sec=max(wall_sec - after_first_sec, 0.0),
        )

    def prefill(self, count: int) -> Work:
        # Numbers make each text another from its start on, so that no cached prompt helps.
        self._asked += 1
        text = " ".join(str((self._asked * 7919 + 31 * index) % 1000) for index in range(count))
        reply = self._generate(text[: count * 2], 1)
        names = ("total_duration", "load_duration", "eval_duration", "prompt_eval_duration")
        total, load, generated, told = (reply.get(name, 0) / 1e9 for name in names)
        # 0.12 tells the time of the last batch alone.
        return Work(int(reply["prompt_eval_count"]), max(told, total - load - generated))

    def decode(self, count: int) -> Work:
        tokens, sec = 0, 0.0
        for index in range(MOST_REQUESTS):
            prompt = self._samples[index % len(self._samples)]
            reply = self._generate(prompt, count - tokens + 1)
            tokens += max(0, int(reply.get("eval_count", 0)) - 1)  # the first is prefill's
            sec += reply.get("eval_duration", 0) / 1e9
            if tokens >= count:
                break
        if not tokens or not sec:
            raise CannotRun("Ollama answers no prompt of this bundle with more than one token")
        return Work(tokens, sec)

    def peak_rss(self) -> int | None:
        return peak_rss_bytes(self.pid)

    def close(self) -> None:
        """Out of memory, then out of Ollama's store (a blob that another model uses stays)."""
        name, self._name = self._name, ""
        if not name:
            return
        try:
            call("POST", self._url + "/api/generate", {"model": name, "keep_alive": 0})
            call("DELETE", self._url + "/api/delete", {"model": name})
        except CannotRun:
            pass  # it died, and this test says so elsewhere

    def _create(self, model: Path, adapter: Path | None) -> None:
        name = f"{TRIAL_PREFIX}{self._digest[:12]}-{os.getpid()}"
        body: dict[str, Any] = {"model": name, "stream": False}
        try:
            body["files"] = {model.name: self._upload(model)}
            if adapter:
                body["adapters"] = {adapter.name: self._upload(adapter)}
            self._name = name
            call("POST", self._url + "/api/create", body)
        except Refused as error:
            self._name = ""
            raise CannotRun(f"Ollama {self.version} does not take the model: {error}") from None

    def _upload(self, file: Path) -> str:
        """Bring a file into Ollama's store, where it is not there yet; its name in it."""
        digest = f"sha256:{digest_of(file)}"
        blob = f"{self._url}/api/blobs/{digest}"
        if not self._has(blob):
            headers = {
                "Content-Length": str(file.stat().st_size),
                "Content-Type": "application/octet-stream",
            }
            with file.open("rb") as stream:
                call("POST", blob, stream, headers)
        return digest

    def _has(self, blob: str) -> bool:
        try:
            call("HEAD", blob)
        except Refused:
            return False
        return True

    def _forget(self) -> None:
        """Another prompt in between, so that the next one is not found in the cache."""
        self._generate("0", 1)

    def _generate(self, prompt: str, count: int) -> dict[str, Any]:
        options = {**self._options, "num_predict": count}
        body = {"model": self._name, "prompt": prompt, "raw": True, "stream": False}
        try:
            return call("POST", self._url + "/api/generate", {**body, "options": options})
        except Refused as error:
            raise CannotRun(f"Ollama {self.version} cannot run the model: {error}") from None


def digest_of(file: Path) -> str:
    """A file's SHA-256, which the bundle's verified sums already have."""
    return read_sums(file.parent).get(file.name) or sha256_file(file)


def ollama_url(host: str) -> str:
    """OLLAMA_HOST as Ollama reads it; an address that listens everywhere is reached on loopback."""
    text = host.strip().strip("\"'")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    try:
        parts = urlsplit(f"//{rest}")
        name, port = parts.hostname or "127.0.0.1", parts.port
    except ValueError:
        raise NotThere(f"OLLAMA_HOST is no address: {text!r}") from None
    if scheme not in ("http", "https"):
        raise NotThere(f"OLLAMA_HOST has an unknown scheme: {text!r}")
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)
    shown_name = f"[{name}]" if ":" in name else name
    usual = {"http": 80, "https": 443}[scheme] if separator else DEFAULT_PORT
    return f"{scheme}://{shown_name}:{port if port is not None else usual}{parts.path.rstrip('/')}"


def is_loopback(url: str) -> bool:
    name = urlsplit(url).hostname or ""
    return name in ("localhost", "::1") or re.match(r"127\.", name) is not None
