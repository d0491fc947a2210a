"""Run an exporter in a process of its own: its memory goes with it, and it cannot reach a hub."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass

from common.errors import UserError
from common.resources import explained_text
from common.with_parent import with_parent
from toolchain.child import environment, module_command

_KILLED = -9
_LAST_LINES = 3
_POLL_SEC = 0.05


@dataclass(frozen=True)
class ExporterOutcome:
    """How the process ended: exit code (negative: the signal), its output, seconds, peak memory."""

    code: int
    log: str
    wall_sec: float
    peak_rss_bytes: int

    def last_words(self) -> str:
        """The end of the output: an exception's text, as a rule."""
        lines = [line.strip() for line in self.log.splitlines() if line.strip()]
        return " | ".join(lines[-_LAST_LINES:])[-400:] or "it left no message"


def run_exporter(module: str, arguments: Sequence[str]) -> ExporterOutcome:
    """Run `python -m module arguments` to its end."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as log:
        child = subprocess.Popen(
            with_parent(module_command(module, *arguments)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=environment(TQDM_DISABLE="1", HF_HUB_DISABLE_PROGRESS_BARS="1"),
        )
        try:
            code, peak_rss_bytes = _wait(child)
        except BaseException:
            child.kill()
            child.wait()
            raise
        log.seek(0)
        text = log.read().decode("utf-8", "replace")
    outcome = ExporterOutcome(code, text, time.perf_counter() - start, peak_rss_bytes)
    if code == _KILLED:
        raise UserError(
            "the ONNX exporter was killed, most likely because memory ran out",
            "close other programs, or export on a machine with more memory",
        )
    if code and (lack := explained_text(text, "exporting to ONNX")):
        raise lack
    return outcome


def _wait(child: subprocess.Popen[bytes]) -> tuple[int, int]:
    """Exit code and peak resident bytes; `os.wait4` tells those of this child alone."""
    while True:
        pid, status, usage = os.wait4(child.pid, os.WNOHANG)
        if pid:
            child.returncode = os.waitstatus_to_exitcode(status)
            return child.returncode, usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024)
        time.sleep(_POLL_SEC)
