"""Ollama: find it, create models through its own command line, talk to its HTTP API.

Only the standard library: the API is JSON over HTTP (https://github.com/ollama/ollama/blob/main/docs/api.md).

    client = Client(base_url())
    client.create("my-model", Path("bundle/Modelfile"))
    client.chat("my-model", [{"role": "user", "content": "hi"}])["message"]["content"]
"""

from __future__ import annotations

import http.client
import json
import os
import re
import shutil
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from runtimes.ollama_errors import OllamaError as OllamaError
from runtimes.ollama_errors import OllamaRefusal as OllamaRefusal
from runtimes.ollama_errors import refusal

DEFAULT_PORT = 11434
# The first version that reads the Jinja template inside the GGUF.
JINJA_VERSION = (0, 30)

_PART = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,79}"
_NAME = re.compile(rf"(?:[A-Za-z0-9_][A-Za-z0-9_-]{{0,79}}/)?{_PART}(?::{_PART})?\Z")
_HOW_TO_GET = (
    "get it from https://ollama.com/download, or build it with scripts/install_ollama.sh "
    "(needs Go), then try again"
)
# A model is loaded from disk before the first token; on a slow device that takes minutes.
_TIMEOUT_SEC = 600.0
_CREATE_TIMEOUT_SEC = 3600.0


def find_binary() -> Path:
    """The `ollama` program: on PATH, else beside the running Python (`.venv/bin`)."""
    beside = Path(sys.executable).parent
    found = shutil.which("ollama") or shutil.which("ollama", path=str(beside))
    if found is None:
        raise OllamaError("there is no Ollama on this machine", _HOW_TO_GET)
    return Path(found)


def base_url(host: str | None = None) -> str:
    """The server's address from `host`, else from OLLAMA_HOST, else the default on loopback.

    Takes what Ollama takes: `host`, `host:port`, `:port`, with or without a scheme. An address that
    a server listens on everywhere (0.0.0.0) is reached on loopback.
    """
    text = (host if host is not None else os.environ.get("OLLAMA_HOST", "")).strip().strip("\"'")
    scheme, separator, rest = text.partition("://")
    if not separator:
        scheme, rest = "http", text
    try:
        parts = urlsplit(f"//{rest}")
        name, port = parts.hostname or "127.0.0.1", parts.port
    except ValueError:
        raise OllamaError(f"OLLAMA_HOST is not an address: '{text}'", "set host:port") from None
    if scheme not in ("http", "https"):
        raise OllamaError(f"OLLAMA_HOST has an unknown scheme: '{text}'", "use http or https")
    name = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(name, name)
    shown = f"[{name}]" if ":" in name else name
    usual = {"http": 80, "https": 443}[scheme] if separator else DEFAULT_PORT
    return f"{scheme}://{shown}:{port if port is not None else usual}{parts.path.rstrip('/')}"


def is_local(url: str) -> bool:
    """Whether a server's address is this machine's loopback."""
    return urlsplit(url).hostname in ("127.0.0.1", "::1", "localhost")


def check_name(name: str) -> str:
    """The name, if it is one that Ollama takes (`[namespace/]model[:tag]`) and no option."""
    if not _NAME.match(name):
        raise OllamaError(
            f"'{name}' is no name for an Ollama model",
            "use letters, digits, '_', '-' and '.', beginning with a letter or digit; "
            "a tag may follow after ':'",
        )
    return name


@dataclass(frozen=True)
class Client:
    """A running server at `url`; `binary` is the `ollama` to call (default: the one found).
    `options` go with every request that runs a model: were some of them to change from one to the
    next (num_thread, num_ctx), Ollama would load the model anew each time."""

    url: str
    binary: Path | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def is_running(self) -> bool:
        """Whether a server answers (within two seconds)."""
        try:
            self.version(timeout_sec=2.0)
        except OllamaError:
            return False
        return True

    def version(self, *, timeout_sec: float = 10.0) -> tuple[int, ...]:
        """The server's version as numbers, for example (0, 17, 4)."""
        reply = self._call("GET", "/api/version", timeout_sec=timeout_sec)
        numbers = re.match(r"\d+(?:\.\d+)*", str(reply.get("version", "")))
        if numbers is None:
            raise OllamaError(f"what answers at {self.url} is no Ollama", "check OLLAMA_HOST")
        return tuple(int(part) for part in numbers.group().split("."))

    def create(self, name: str, modelfile: Path) -> None:
        """Create (or replace) a model with the real `ollama create`, run in the Modelfile's folder.

        Raises `OllamaError` with the reason that Ollama gives.
        """
        program = str(self.binary or find_binary())
        command = [program, "create", check_name(name), "-f", modelfile.name]
        try:
            done = subprocess.run(
                command,
                cwd=modelfile.parent,
                env={**os.environ, "OLLAMA_HOST": self.url, "NO_COLOR": "1"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_CREATE_TIMEOUT_SEC,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise OllamaError(
                f"`ollama create {name}` took longer than {_CREATE_TIMEOUT_SEC:.0f} s",
                "look at the server's log",
            ) from None
        if done.returncode != 0:
            said = _last_line(done.stderr or done.stdout)
            raise refusal(f"`ollama create {name}` failed", said)

    def show(self, name: str) -> dict[str, Any]:
        """What `/api/show` says: template, parameters, system, license, details, model_info."""
        return self._call("POST", "/api/show", {"model": check_name(name)})

    def tensors(self, name: str) -> list[dict[str, Any]]:
        """Name, type and shape of every tensor, as Ollama reads them from its file."""
        reply = self._call("POST", "/api/show", {"model": check_name(name), "verbose": True})
        return list(reply.get("tensors") or [])

    def loaded(self) -> list[dict[str, Any]]:
        """What `/api/ps` says of every model in memory: name, context_length, size, size_vram."""
        return list(self._call("GET", "/api/ps").get("models") or [])

    def exists(self, name: str) -> bool:
        """Whether the server holds a model of this name. Raises for a name it does not take."""
        try:
            self.show(name)
        except OllamaRefusal as error:
            if "not found" in error.problem:
                return False
            raise
        return True

    def names(self) -> list[str]:
        """Names of the models that the server holds."""
        return [str(model["name"]) for model in self._call("GET", "/api/tags").get("models", [])]

    def remove(self, name: str) -> None:
        """Remove a model."""
        self._call("DELETE", "/api/delete", {"model": check_name(name)})

    def copy(self, name: str, to: str) -> None:
        """Give a model a second name; one that has this name already is replaced."""
        body = {"source": check_name(name), "destination": check_name(to)}
        self._call("POST", "/api/copy", body)

    def has_blob(self, sha256: str) -> bool:
        """Whether the server's store holds a file of this digest."""
        try:
            self._call("HEAD", f"/api/blobs/sha256:{sha256}")
        except OllamaRefusal:
            return False
        return True

    def forget_blob(self, name: str, file_name: str, sha256: str) -> None:
        """Remove a file that an unfinished create left in the store, where no API removes a file:
        a model `name` is made of it and removed."""
        body = {"model": check_name(name), "files": {file_name: f"sha256:{sha256}"}}
        self._call("POST", "/api/create", {**body, "stream": False})
        self.remove(name)

    def unload(self, name: str) -> None:
        """Take a model out of memory."""
        self._call("POST", "/api/generate", {"model": check_name(name), "keep_alive": 0})

    def generate(
        self,
        name: str,
        prompt: str,
        *,
        raw: bool = False,
        system: str | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """One answer to a prompt; `raw` leaves the template out. Counts and times (ns) included."""
        body = {"model": check_name(name), "prompt": prompt, "raw": raw, "stream": False}
        if system is not None:
            body["system"] = system
        return self._call("POST", "/api/generate", {**body, "options": self._with(options)})

    def chat(
        self,
        name: str,
        messages: Sequence[Mapping[str, Any]],
        *,
        options: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """One answer to a conversation: `message`, `done_reason`, `prompt_eval_count`, …"""
        body = {"model": check_name(name), "messages": [dict(m) for m in messages]}
        return self._call(
            "POST", "/api/chat", {**body, "stream": False, "options": self._with(options)}
        )

    def render(self, name: str, messages: Sequence[Mapping[str, Any]]) -> str:
        """The prompt that Ollama makes of a conversation, without the BOS that its engine adds."""
        return self._rendered("/api/chat", name, {"messages": [dict(m) for m in messages]})

    def render_generate(self, name: str, prompt: str, system: str | None = None) -> str:
        """The same for a request to generate: a prompt, and perhaps a system message."""
        more = {} if system is None else {"system": system}
        return self._rendered("/api/generate", name, {"prompt": prompt, **more})

    def _rendered(self, path: str, name: str, more: Mapping[str, Any]) -> str:
        # Long conversations are compared whole, whatever the context.
        how = {"stream": False, "truncate": False, "_debug_render_only": True}
        body = {"model": check_name(name), **more, **how, "options": self._with(None)}
        reply = self._call("POST", path, body)
        info = reply.get("_debug_info")
        if not isinstance(info, dict) or not isinstance(info.get("rendered_template"), str):
            raise OllamaError(
                "this version of Ollama does not show the prompt that it renders",
                "use Ollama 0.12.6 or newer",
            )
        return str(info["rendered_template"])

    def _with(self, options: Mapping[str, Any] | None) -> dict[str, Any]:
        return {**self.options, **(options or {})}

    def _call(
        self,
        method: str,
        path: str,
        body: Mapping[str, Any] | None = None,
        *,
        timeout_sec: float = _TIMEOUT_SEC,
    ) -> dict[str, Any]:
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.url + path, data, headers, method=method)
        # A proxy of the environment is not for the local server.
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        try:
            with opener.open(request, timeout=timeout_sec) as reply:
                text = reply.read().decode()
        except urllib.error.HTTPError as error:
            raise refusal(f"Ollama refuses {path}", _reason(error)) from None
        except urllib.error.URLError as error:
            raise OllamaError(
                f"no Ollama answers at {self.url} ({error.reason})",
                "start it with `ollama serve`, or set OLLAMA_HOST to where it runs",
            ) from None
        except TimeoutError:
            raise OllamaError(
                f"the Ollama at {self.url} did not answer {path} within {timeout_sec:.0f} s",
                "look at its log; a smaller model or context answers sooner",
            ) from None
        except (OSError, ValueError, http.client.HTTPException):
            raise OllamaError(
                f"the Ollama at {self.url} went away during {path}",
                "look at its log (out of memory is the usual reason), start it again and try again",
            ) from None
        try:
            value = json.loads(text or "{}")
        except json.JSONDecodeError:
            value = None
        if not isinstance(value, dict):
            raise OllamaError(f"what answers at {self.url} is no Ollama", "check OLLAMA_HOST")
        return value


def _reason(error: urllib.error.HTTPError) -> str:
    text = error.read().decode(errors="replace")
    try:
        return str(json.loads(text)["error"])
    except (json.JSONDecodeError, KeyError, TypeError):
        return f"HTTP {error.code} {text[:200]}".strip()


def _last_line(text: str) -> str:
    """The last line that says something, without the terminal's control sequences."""
    plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "\n")
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return lines[-1].removeprefix("Error: ") if lines else "no reason given"
