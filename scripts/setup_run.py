"""How set-up runs its commands: progress on stderr, output in a log, clear errors.

Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

HEARTBEAT_SEC = 15.0
OFFLINE = re.compile(r"NewConnectionError|ConnectTimeout|NameResolutionError|versions: none")


@dataclass(frozen=True)
class Setup:
    """One environment of one checkout. `work` holds the log and what a stopped run goes on from."""

    root: Path
    start_sec: float = field(default_factory=time.monotonic)

    @property
    def venv(self) -> Path:
        return self.root / ".venv"

    @property
    def python(self) -> Path:
        return self.venv / "bin" / "python"

    @property
    def work(self) -> Path:
        return self.venv / ".setup"

    @property
    def log(self) -> Path:
        return self.work / "setup.log"

    def say(self, line: str) -> None:
        """One progress line with the time since the start, on stderr."""
        elapsed_sec = time.monotonic() - self.start_sec
        print(f"[{elapsed_sec:4.0f} s] {line}", file=sys.stderr, flush=True)

    def run(self, title: str, command: Sequence[str | Path], **environment: str) -> None:
        """Run one step with its output in the log; a `UserError` with the log's end on failure."""
        from common.errors import UserError

        self.say(f"{title} …")
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"\n$ {shlex.join(map(str, command))}\n")
            log.flush()
            begin = log.tell()
            code = self._wait(command, log, {**self._environment(), **environment})
        if code:
            text = self.log.read_bytes()[begin:].decode(errors="replace")
            mend = f"the whole output is in {self.log}; run `make setup` again to go on from here"
            if OFFLINE.search(text):
                mend = (
                    "pip's index does not answer or lacks it: check the network, then `make setup`"
                )
            tail = [line for line in text.splitlines() if line.strip()][-12:]
            raise UserError(f"set-up failed while {title}", mend, details=tail)

    def _wait(self, command: Sequence[str | Path], log: TextIO, environment: dict[str, str]) -> int:
        begin = log.tell()
        process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment,
            cwd=self.root,
        )
        try:
            while True:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    return process.wait(HEARTBEAT_SEC)
                self.say(f"  {last_line(self.log, begin) or '…'}")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()

    def _environment(self) -> dict[str, str]:
        """pip unpacks beside the environment, where space was checked: /tmp may be small."""
        scratch = self.work / "tmp"
        scratch.mkdir(parents=True, exist_ok=True)
        unwanted = (
            "PYTHONPATH",
            "PYTHONHOME",
            "PIP_USER",
            "PIP_TARGET",
            "PIP_PREFIX",
            "CMAKE_ARGS",
        )
        kept = {name: value for name, value in os.environ.items() if name not in unwanted}
        path = f"{self.venv / 'bin'}{os.pathsep}{os.environ.get('PATH', os.defpath)}"
        quiet = {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
        return {**kept, **quiet, "TMPDIR": str(scratch), "PATH": path}

    def pip(self, title: str, *arguments: str | Path, **environment: str) -> None:
        """One pip command of the environment's own pip."""
        self.run(title, [self.python, "-m", "pip", *arguments], **environment)


def last_line(log: Path, begin: int = 0) -> str:
    """How far a step is, from its part of the log (from byte `begin`): ninja's newest `[n/m]`, else
    the newest line, cut to a screen's width."""
    lines = log.read_bytes()[begin:][-40_000:].decode(errors="replace").split("\n")
    steps = [step[0] for line in lines if (step := re.match(r"\s*\[\d+/\d+\]", line))]
    filled = [line for line in lines if line.strip()]
    return (steps or filled or [""])[-1].strip()[:100]
