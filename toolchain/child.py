"""Python processes of our own: their command and environment, wherever they are started from."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import Lack, UserError
from common.resources import lack_of_process
from common.with_parent import with_parent

_POLL_SEC = 0.05
_LAST_WORDS_SEC = 5.0
_RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024

ROOT = Path(__file__).resolve().parents[1]


def module_command(module: str, *arguments: object) -> list[str]:
    """The command that runs one of our modules with this Python; never a module of the same name
    that lies in the current folder (-P)."""
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def script_command(script: Path) -> list[str]:
    """The command that runs a script of this checkout. Raises `UserError` when it is not there."""
    if not script.is_file():
        raise UserError(f"{script} is missing", "run edgeforge from its source checkout")
    return [sys.executable, str(script)]


def environment(**more: str) -> dict[str, str]:
    """This process's environment with our packages importable and nothing fetched silently."""
    search = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return {**os.environ, "PYTHONPATH": search, **offline, **more}


@dataclass(frozen=True)
class Outcome:
    """How a process ended: exit code (negative: the signal), what it said, seconds, peak memory."""

    code: int
    said: str
    wall_sec: float
    peak_rss_bytes: int

    def lack(self, doing: str) -> Lack | None:
        """What the machine ran out of, where that is why it failed; `doing` is what it did."""
        return lack_of_process(self.code, self.said, doing)


def run_to_end(
    command: Sequence[object],
    environment: Mapping[str, str],
    meanwhile: Callable[[], object] = lambda: None,
) -> Outcome:
    """Run a command to its end, which is this process's end too; `meanwhile` is called over and
    over. What it says comes through a pipe: a file would be cut short by the very lack that the
    process tells of."""
    start = time.perf_counter()
    said: list[bytes] = []
    with subprocess.Popen(
        with_parent(command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env=dict(environment),
    ) as process:
        try:
            stream = process.stdout
            assert stream  # a pipe was asked for
            reader = threading.Thread(target=lambda: said.append(stream.read()), daemon=True)
            reader.start()
            peak_rss_bytes = _wait(process, meanwhile)
            reader.join(_LAST_WORDS_SEC)  # a process that it left behind may hold the pipe
        except BaseException:
            process.kill()
            raise
    text = b"".join(said).decode("utf-8", "replace")
    return Outcome(process.returncode, text, time.perf_counter() - start, peak_rss_bytes)


def _wait(process: subprocess.Popen[bytes], meanwhile: Callable[[], object]) -> int:
    """Peak resident bytes of the process; `os.wait4` tells those of this child alone."""
    while True:
        pid, status, usage = os.wait4(process.pid, os.WNOHANG)
        meanwhile()
        if pid:
            process.returncode = os.waitstatus_to_exitcode(status)
            return usage.ru_maxrss * _RSS_UNIT_BYTES
        time.sleep(_POLL_SEC)
