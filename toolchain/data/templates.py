"""Chat templates come with a checkpoint and are not trusted: they render in a process of their own.

    text = render("own", {"template": ..., "messages": [...], "values": {...}, "now": None})

The process (`toolchain.data.template_process`) is started once and kept. It has little memory and
ends when one rendering takes longer than a few seconds, as no honest template does.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import json
import os
import socket
import subprocess
import threading
from collections.abc import Mapping
from multiprocessing.connection import Connection
from typing import Any, Literal

from common.errors import UserError
from toolchain.child import environment, module_command
from toolchain.data.template_process import INVALID, MOST_CHARACTERS, RENDERED

Engine = Literal["own", "transformers"]
_MOST_TEMPLATE_CHARACTERS = 1 << 20
_MOST_ANSWER_BYTES = 4 * MOST_CHARACTERS + 1
_START_SEC = 120.0  # imports, on a busy machine
_ANSWER_SEC = 120.0  # the process ends itself before, after a few seconds of the CPU
_MEND = "mend the checkpoint's chat template, or take it from the model's author"


class ChatTemplateError(UserError):
    """The template refuses these messages, or is itself faulty."""


class BrokenTemplate(ChatTemplateError):
    """It is no Jinja, or exceeds what a template may take."""


def render(engine: Engine, request: Mapping[str, Any]) -> str:
    """The text. Raises `ChatTemplateError` with the template's own reason, or what it exceeded."""
    return _worker(engine, os.getpid()).render(request)


@functools.cache
def _worker(engine: Engine, _owner: int) -> _Worker:
    """One for each engine and process: a forked process must not share its parent's."""
    return _Worker(engine)


class _Worker:
    """The process that renders, started when it is first needed and again when it ended."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._turn = threading.Lock()
        self._line: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._broken: dict[bytes, str] = {}  # digest of a template → what it exceeded

    def render(self, request: Mapping[str, Any]) -> str:
        template = str(request["template"])
        if len(template) > _MOST_TEMPLATE_CHARACTERS:
            raise BrokenTemplate(
                f"the chat template is too large: {len(template)} characters, at most "
                f"{_MOST_TEMPLATE_CHARACTERS} are taken",
                _MEND,
            )
        key = hashlib.sha256(template.encode("utf-8", "surrogatepass")).digest()
        with self._turn:
            if key in self._broken:  # it would only take the same time again
                raise BrokenTemplate(self._broken[key], _MEND)
            answer = self._ask(json.dumps(request).encode())
            if answer is None:
                self._broken[key] = (
                    "the chat template was stopped: it takes too long, or too much memory"
                )
                raise BrokenTemplate(self._broken[key], _MEND)
        kind, text = answer[:1], answer[1:].decode("utf-8", "surrogatepass")
        if kind == RENDERED:
            return text
        if kind == INVALID:
            raise BrokenTemplate(f"the chat template is not valid Jinja: {text}", _MEND)
        raise ChatTemplateError(f"the chat template cannot render these messages: {text}")

    def _ask(self, request: bytes) -> bytes | None:
        """The process's answer; None when it ended instead."""
        line = self._line or self._start()
        with contextlib.suppress(EOFError, OSError):
            line.send_bytes(request)
            if line.poll(_ANSWER_SEC):
                return line.recv_bytes(_MOST_ANSWER_BYTES)
        self._end()
        return None

    def _start(self) -> Connection:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                module_command("toolchain.data.template_process", self._engine, theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment(),
            )
        self._line = line = Connection(ours.detach())
        ready = False
        with contextlib.suppress(EOFError, OSError):
            ready = line.poll(_START_SEC) and line.recv_bytes() == RENDERED
        if not ready:
            self._end()
            raise UserError("the process that renders chat templates does not start", "make setup")
        return line

    def _end(self) -> None:
        if self._line is not None:
            self._line.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._line = self._process = None
