"""The other end of `benchmark.worker`: starts the process, asks, and says why one died."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

from common.closing import Closing
from common.errors import UserError
from runtimes.timed import TimedOptions

ROOT = Path(__file__).resolve().parents[2]
_QUIT_SEC = 20
_LAST_WORDS = 600


class WorkerClient(Closing):
    """A worker process. `name` stands in its error messages.

        with WorkerClient("torch-fp32") as worker:
            worker.load("decoder", "torch", path, TimedOptions(2, 300), cores=(0, 1))
            worker.ask("request", tokens=[1, 2], count=8)

    Thread counts go through the environment too (OMP, MKL, OpenBLAS), since libraries read it when
    they are loaded.
    """

    def __init__(self, name: str, threads: int) -> None:
        self.name = name
        # Kept for the last words of a worker that dies; closed by `close`.
        self._stderr: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115
        count = str(threads)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmark.worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            text=True,
            encoding="utf-8",
            env={
                **os.environ,
                "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "scripts")]),
                "HF_HUB_OFFLINE": "1",
                "OMP_NUM_THREADS": count,
                "MKL_NUM_THREADS": count,
                "OPENBLAS_NUM_THREADS": count,
            },
        )

    @property
    def pid(self) -> int:
        return self._process.pid

    def load(
        self,
        kind: str,
        engine: str,
        path: Path,
        options: TimedOptions,
        cores: Sequence[int],
    ) -> dict[str, Any]:
        """Load the model and pin the process to `cores`."""
        return self.ask(
            "load",
            kind=kind,
            engine=engine,
            path=str(path),
            options=vars(options),
            cores=list(cores),
        )

    def ask(self, command: str, **arguments: Any) -> dict[str, Any]:
        """The answer to a command. Raises `UserError` with the worker's fault, or its last words
        when it died."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(json.dumps({"command": command, **arguments}) + "\n")
            self._process.stdin.flush()
        except (BrokenPipeError, ValueError):
            raise self._death() from None
        line = self._process.stdout.readline()
        if not line:
            raise self._death()
        answer: dict[str, Any] = json.loads(line)
        if fault := answer.get("error"):
            raise UserError(f"{self.name}: {fault['problem']}", fault["mend"])
        return answer

    def close(self) -> None:
        """End the process; it frees its model first where it can."""
        if self._process.poll() is None and self._process.stdin is not None:
            try:
                self._process.stdin.write('{"command": "quit"}\n')
                self._process.stdin.close()
                self._process.wait(_QUIT_SEC)
            except (OSError, ValueError, subprocess.TimeoutExpired):
                self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._stderr):
            if stream is not None and not stream.closed:
                try:
                    stream.close()
                except OSError:
                    continue  # what was not yet written can no longer be read

    def _death(self) -> UserError:
        """Why the process ended without an answer."""
        code = self._process.wait()
        self._stderr.seek(0)
        words = self._stderr.read().decode("utf-8", "replace").strip()[-_LAST_WORDS:]
        if code == -9:
            return UserError(
                f"{self.name}: its process was killed, most likely for memory",
                "close other programs, measure fewer engines (--engines), or a smaller model",
            )
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return UserError(
            f"{self.name}: its process ended ({how})",
            "leave this engine out (--engines), or report this",
            details=words.splitlines()[-6:],
        )
