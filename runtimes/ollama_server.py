"""An Ollama server of one's own: started on a free loopback port, stopped for sure.

with server(Path("trial")) as client:
    client.create("my-model", Path("bundle/Modelfile"))
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

from runtimes.ollama import Client, OllamaError, find_binary

LOG_NAME = "ollama-serve.log"
_READY_SEC = 60.0
_STOP_SEC = 10.0


@contextlib.contextmanager
def server(
    folder: Path | None = None, *, log: Path | None = None, binary: Path | None = None
) -> Iterator[Client]:
    """Run `ollama serve` for the duration of the block.

    With `folder` the server keeps its models and its home there, apart from the user's; without it
    the user's own store is used. `log` takes what the server writes (default: in `folder`, else
    nowhere). The server and the runners that it starts are gone when the block ends.
    Raises `OllamaError` when there is no Ollama or it does not come up.
    """
    program = binary or find_binary()
    port = free_port()
    client = Client(f"http://127.0.0.1:{port}", program)
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        log = log or folder / LOG_NAME
    with (log or Path(os.devnull)).open("wb") as output:
        process = subprocess.Popen(
            [str(program), "serve"],
            env=_environment(folder, port),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # a process group of its own, runners included
        )
        try:
            _wait_until_ready(process, client, log)
            yield client
        finally:
            _stop(process)


def free_port() -> int:
    """A TCP port on loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _environment(folder: Path | None, port: int) -> Mapping[str, str]:
    own = {"OLLAMA_HOST": f"127.0.0.1:{port}", "OLLAMA_NOPRUNE": "1"}
    if folder is not None:
        own |= {"HOME": str(folder.absolute()), "OLLAMA_MODELS": str(folder.absolute() / "models")}
    return {**os.environ, **own}


def _wait_until_ready(process: subprocess.Popen[bytes], client: Client, log: Path | None) -> None:
    deadline = time.monotonic() + _READY_SEC
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise OllamaError(
                f"`ollama serve` ended with code {process.returncode} before it was ready",
                f"see {log}" if log else "run `ollama serve` to see why",
            )
        if client.is_running():
            return
        time.sleep(0.05)
    raise OllamaError(f"`ollama serve` was not ready after {_READY_SEC:.0f} s", f"see {log}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    """Ask the whole group to end, then end it."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sign)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_STOP_SEC)
