"""Engines that are programs: found, started, and gone for sure when this test is."""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HELP_TIMEOUT_SEC, STOP_SEC = 60.0, 10.0
PR_SET_PDEATHSIG = 1


def find_program(*names: str) -> str | None:
    """The first of these on PATH, else beside the running Python."""
    for name in names:
        found = shutil.which(name) or shutil.which(name, path=str(Path(sys.executable).parent))
        if found:
            return found
    return None


def output_of(command: list[str]) -> str:
    """What a program prints, to either stream; empty when it cannot be run."""
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=HELP_TIMEOUT_SEC,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.decode("utf-8", "replace")


def start(command: list[str], log: Any) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own, which ends when this process dies."""
    return subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        preexec_fn=_die_with_parent(),
    )


def stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the group to end, then end it."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        if process.poll() is not None:
            return
        try:
            os.killpg(process.pid, sign)
            process.wait(timeout=STOP_SEC)
        except (OSError, subprocess.TimeoutExpired):
            continue


def _die_with_parent() -> Callable[[], None] | None:
    """On Linux the kernel ends the child when this process is killed and cannot do so itself."""
    if not sys.platform.startswith("linux"):
        return None
    prctl = ctypes.CDLL(None).prctl
    return lambda: prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)


def complaint(text: str, lines: int = 3) -> str:
    """The last lines of a log that speak of an error, else simply the last."""
    said = [line.strip() for line in text.splitlines() if line.strip()]
    bad = [s for s in said if any(word in s.lower() for word in ("error", "fail", "unknown"))]
    return " / ".join((bad or said)[-lines:])[-600:] or "no reason given"
