"""Our own modules (`python -m module …`) forked from the warm process instead of started anew.

The code that runs is the same; what is spared is a second import of torch and transformers, which
takes longer than any of these tiny trials. Everything else is started as ever.
"""

from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Sequence
from typing import IO, Any

_MODULES = ("toolchain.", "onnxruntime_genai.")
_START = subprocess.Popen


class ForkedPopen:
    """As much of `subprocess.Popen` as the toolchain uses of it, for a module."""

    def __init__(self, command: Sequence[str], **settings: Any) -> None:
        self.args = list(command)
        self.returncode: int | None = None
        self.stdout: IO[str] | None = None
        piped = settings.get("stdout") == subprocess.PIPE
        ends = os.pipe() if piped else (-1, -1)
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            _run_module(self.args, settings, ends)
        if piped:
            os.close(ends[1])
            self.stdout = os.fdopen(ends[0], encoding=settings.get("encoding") or "utf-8")

    def __enter__(self) -> ForkedPopen:
        return self

    def __exit__(self, *_: object) -> None:
        self.wait()

    def communicate(self, input: str | None = None, timeout: float | None = None) -> Any:
        """What it printed; nothing is sent."""
        text = self.stdout.read() if self.stdout else None
        self.wait()
        return text, ""

    def poll(self) -> int | None:
        """Its exit code once it has ended."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Its exit code."""
        if self.returncode is None:
            _, status = os.waitpid(self.pid, 0)
            self.returncode = os.waitstatus_to_exitcode(status)
        assert self.returncode is not None
        return self.returncode

    def kill(self) -> None:
        """End it."""
        if self.returncode is None:
            os.kill(self.pid, signal.SIGKILL)

    terminate = kill


def start(command: Sequence[str], *more: Any, **settings: Any) -> Any:
    """A fork where the command is one of our modules, else a process."""
    words, plain = list(command), "pass_fds" not in settings  # a fork would hold both ends
    if plain and words[:3] == [sys.executable, "-P", "-m"] and words[3].startswith(_MODULES):
        return ForkedPopen(words, **settings)
    return _START(command, *more, **settings)


def use_forks() -> None:
    """From now on, in this process."""
    subprocess.Popen = start  # type: ignore[misc, assignment]


def _run_module(words: list[str], settings: dict[str, Any], ends: tuple[int, int]) -> None:
    """The child's part; it ends here."""
    code = 1
    try:
        _redirect(settings, ends)
        os.environ.update(settings.get("env") or {})
        sys.argv = words[3:]
        runpy.run_module(words[3], run_name="__main__", alter_sys=True)
        code = 0
    except SystemExit as left:
        code = left.code if isinstance(left.code, int) else int(left.code is not None)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def _redirect(settings: dict[str, Any], ends: tuple[int, int]) -> None:
    out = settings.get("stdout")
    if ends[1] >= 0:
        os.dup2(ends[1], 1)
    elif out not in (None, subprocess.DEVNULL) and hasattr(out, "fileno"):
        os.dup2(out.fileno(), 1)
    err = settings.get("stderr")
    if err == subprocess.STDOUT:
        os.dup2(1, 2)
