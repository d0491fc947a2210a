"""The real command line in a process of its own, for tests.

A process is forked from a server that has imported the heavy libraries and done nothing else, which
spares each command the seconds that these imports take.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
import tempfile
from multiprocessing import forkserver
from pathlib import Path

ROOT = Path(__file__).parents[1]
_TIMEOUT_SEC = 280
_PRELOADED = ["torch", "transformers", "numpy", "gguf", "llama_cpp", "onnxruntime", "peft"]
# huggingface_hub reads this when it is imported, so the server has it too.
_OFFLINE = {"HF_HUB_OFFLINE": "1"}


def edgeforge(*arguments: object, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    """Run `edgeforge ARGUMENTS`; what it wrote and its exit code."""
    words = list(map(str, arguments))
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **_OFFLINE}
    with tempfile.TemporaryDirectory() as folder:
        streams = (Path(folder) / "stdout", Path(folder) / "stderr")
        process = _server().Process(target=_command, args=(words, cwd, environment, streams))
        process.start()
        process.join(_TIMEOUT_SEC)
        if process.is_alive():
            process.kill()
            raise subprocess.TimeoutExpired(words, _TIMEOUT_SEC)
        written = [path.read_text(encoding="utf-8") for path in streams]
    assert process.exitcode is not None
    return subprocess.CompletedProcess(words, process.exitcode, *written)


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
    words: list[str], cwd: Path, environment: dict[str, str], streams: tuple[Path, Path]
) -> None:
    """In the forked process: become the command."""
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in enumerate(streams, start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), number)
    sys.argv = ["edgeforge", *words]
    sys.path[:] = [str(ROOT), *(entry for entry in sys.path if entry != str(ROOT))]
    from toolchain.cli import main

    sys.exit(main())
