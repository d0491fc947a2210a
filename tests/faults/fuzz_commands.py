"""The command itself on damaged files, in a process forked from a warm one.

The warm one is no test process: engines that ran there leave threads behind, whose locks a forked
process cannot take, and crash it on sound files.
"""

from __future__ import annotations

import multiprocessing
import os
import resource
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from multiprocessing.context import ForkServerContext
from pathlib import Path

from fuzz_sandbox import LIMIT_SEC, PATIENT_SEC

MEMORY_BYTES = 3 << 30
_IMPORTED = [
    "toolchain",
    "llama_cpp",
    "onnxruntime",
    "onnxruntime_genai",
    "torch",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.llama.modeling_llama",
    "transformers.tokenization_utils_tokenizers",
]


@dataclass(frozen=True)
class Ended:
    """How a command ended: exit code (negative: the signal), what it wrote, seconds."""

    code: int
    out: str
    err: str
    sec: float

    @property
    def fault(self) -> str | None:
        """What is wrong with that end; None for a result, and for bad input told as such."""
        told = [line for line in self.err.splitlines() if line.startswith("error: ")]
        if self.code == -signal.SIGKILL:
            return f"hang: {self.sec:.0f} s"
        if "Traceback" in self.err:
            return "traceback: " + " | ".join(self.err.strip().splitlines()[-6:])[-500:]
        if self.code == 2 and len(told) == 1 and len(told[0]) > 20:
            return None
        return None if self.code == 0 else f"exit code {self.code}: {self.err.strip()[-500:]}"


def run_command(words: Sequence[object], work: Path) -> Ended:
    """`edgeforge WORDS` with limits on memory and time; its own processes end with it. One that
    takes too long is run once more, with more time."""
    ended = _run(words, work, LIMIT_SEC)
    return ended if ended.code != -signal.SIGKILL else _run(words, work, PATIENT_SEC)


def _run(words: Sequence[object], work: Path, limit_sec: float) -> Ended:
    out, err = work / ".out", work / ".err"
    started = time.monotonic()
    process = _warm().Process(target=_become, args=(list(map(str, words)), work, out, err))
    process.start()
    process.join(limit_sec)
    if process.is_alive() and process.pid is not None:
        os.killpg(process.pid, signal.SIGKILL)
        process.join()
    code, sec = process.exitcode, time.monotonic() - started
    assert code is not None
    texts = [path.read_text("utf-8", "replace") if path.exists() else "" for path in (out, err)]
    return Ended(code, *texts, sec)


@cache
def _warm() -> ForkServerContext:
    """Where processes are forked from: it has imported what takes seconds, and run nothing."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    return context


def _become(words: list[str], work: Path, out: Path, err: Path) -> None:
    """The process's part; it ends here."""
    code: object = 1
    try:
        os.setsid()
        for number, path in enumerate((out, err), start=1):
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", encoding="utf-8") for n in (1, 2))
        os.environ.update(TMPDIR=str(work), HF_HUB_OFFLINE="1", GGML_NO_BACKTRACE="1")
        os.chdir(work)
        pages = int(Path("/proc/self/statm").read_text("utf-8").split()[0])
        most = pages * resource.getpagesize() + MEMORY_BYTES
        resource.setrlimit(resource.RLIMIT_AS, (most, most))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        sys.argv = ["edgeforge", *words]
        from toolchain.__main__ import main

        main()
        code = 0
    except SystemExit as end:
        code = end.code
    except BaseException:
        import traceback

        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)
