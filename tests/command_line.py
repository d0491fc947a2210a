"""The real command line in a process of its own, for tests.

A process is forked from a server that has imported the heavy libraries and done nothing else, which
spares each command the seconds that these imports take.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from pathlib import Path

ROOT = Path(__file__).parents[1]
_TIMEOUT_SEC = 280
_PRELOADED = ["torch", "transformers", "numpy", "gguf", "llama_cpp", "onnxruntime", "peft"]
# huggingface_hub and onnxruntime read these when they are imported, so the server has them too.
_OFFLINE = {"HF_HUB_OFFLINE": "1", "ORT_DISABLE_TELEMETRY": "1"}


def edgeforge(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `edgeforge ARGUMENTS`; what it wrote and its exit code."""
    return started(*arguments, cwd=cwd).wait()


def started(
    *arguments: object,
    cwd: Path = ROOT,
    environment: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Running:
    """Start `edgeforge ARGUMENTS` as the leader of a session of its own. `environment` is added to
    this one; `before` (a function of a module, or a partial of one) is called in the process first,
    to set limits."""
    words = list(map(str, arguments))
    full = {**os.environ, "PYTHONPATH": str(ROOT), **_OFFLINE, **(environment or {})}
    return Running(words, cwd, full, before)


class Running:
    """A command that runs."""

    def __init__(
        self,
        words: list[str],
        cwd: Path,
        environment: dict[str, str],
        before: Callable[[], None] | None,
    ) -> None:
        self.words = words
        self._folder = tempfile.TemporaryDirectory()
        self._streams = tuple(Path(self._folder.name) / name for name in ("stdout", "stderr"))
        Path(self._folder.name).chmod(0o755)
        for path in self._streams:
            path.touch()
        arguments = (words, cwd, environment, self._streams, before)
        self._process = _server().Process(target=_command, args=arguments)
        self._process.start()

    @property
    def pid(self) -> int:
        """Number of the process that was started, which watches the one that works, and of its
        session."""
        assert self._process.pid is not None
        return self._process.pid

    @property
    def runs(self) -> bool:
        return self._process.is_alive()

    @property
    def said(self) -> str:
        """What it wrote to standard error so far."""
        return self._streams[1].read_text(encoding="utf-8", errors="replace")

    def wait(self, timeout_sec: float = _TIMEOUT_SEC) -> subprocess.CompletedProcess[str]:
        """Wait for its end: what it wrote and its exit code (negative: the signal)."""
        self._process.join(timeout_sec)
        if self._process.is_alive():
            said = self.said
            self.signal_all(signal.SIGKILL)
            raise subprocess.TimeoutExpired(self.words, timeout_sec, stderr=said)
        code = self._process.exitcode
        assert code is not None
        written = [path.read_text(encoding="utf-8", errors="replace") for path in self._streams]
        self._folder.cleanup()
        return subprocess.CompletedProcess(self.words, code, *written)

    def signal_all(self, number: int) -> None:
        """Send a signal to every process of the session's group, as a terminal does."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, number)

    def signal(self, number: int) -> None:
        """Send a signal to the command's own process alone."""
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, number)


def _server() -> multiprocessing.context.ForkServerContext:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_PRELOADED)
    before = dict(os.environ)
    os.environ.update(_OFFLINE)
    try:
        forkserver.ensure_running()
    finally:
        for name in _OFFLINE.keys() - before.keys():
            del os.environ[name]
    return context


def _command(
    words: list[str],
    cwd: Path,
    environment: dict[str, str],
    streams: tuple[Path, Path],
    before: Callable[[], None] | None,
) -> None:
    """In the forked process: become the command."""
    os.setsid()
    signal.signal(signal.SIGINT, signal.default_int_handler)  # as a process of a terminal has it
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
    sys.argv = ["edgeforge", *words]
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry != str(ROOT))]
    from toolchain.__main__ import main

    if before is not None:
        before()
    main()
