"""What goes wrong with a real Ollama gives one clear error and leaves nothing behind."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import ROOT
from ollama_models import write_tiny_gguf
from ollama_programs import processes_with

from common.errors import UserError
from runtimes.ollama import Client, OllamaError
from runtimes.ollama_server import free_port, server
from toolchain.export.ollama.modelfile import MODELFILE
from toolchain.export.ollama.trial import NAMESPACE, trial

TEXT = "FROM ./m.gguf\nTEMPLATE {{ .Prompt }}\nPARAMETER num_ctx 64\n"


@pytest.fixture
def model(tmp_path: Path, tiny: Path) -> Path:
    """A folder with a Modelfile and its GGUF."""
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copyfile(tiny, folder / "m.gguf")
    (folder / MODELFILE).write_text(TEXT)
    return folder


def _blobs(store: Path) -> list[str]:
    return sorted(path.name for path in store.rglob("sha256*"))


def _store(client: Client) -> Path:
    """Where the session's server keeps its models: the folder that `show` names."""
    path = next(
        line.removeprefix("FROM ")
        for name in client.names()[:1]
        for line in client.show(name)["modelfile"].splitlines()
        if line.startswith("FROM /")
    )
    return Path(path).parent


def test_refused_model_leaves_no_file_in_the_store(ollama: Client, model: Path) -> None:
    ollama.create("stays", model / MODELFILE)
    before = _blobs(_store(ollama))
    write_tiny_gguf(model / "m.gguf", say="New")
    (model / MODELFILE).write_text(f"{TEXT}PARAMETER num_ctx many\n")
    with (
        pytest.raises(OllamaError, match="create"),
        trial(ollama, "tiny", model, model / MODELFILE),
    ):
        pass
    assert _blobs(_store(ollama)) == before
    assert not any(name.startswith(NAMESPACE) for name in ollama.names())


def test_server_too_old_for_the_architecture_says_so(ollama: Client, model: Path) -> None:
    before = sorted(ollama.names())
    write_tiny_gguf(model / "m.gguf", architecture="not-yet")
    with (
        pytest.raises(OllamaError) as caught,
        trial(ollama, "tiny", model, model / MODELFILE) as name,
    ):
        ollama.generate(name, "hi")
    assert "too old for the model's architecture" in caught.value.mend
    assert sorted(ollama.names()) == before


def test_full_disk_is_told_and_leaves_nothing(ollama: Client, model: Path, tmp_path: Path) -> None:
    """The store is a file system of 1 MB, mounted in a namespace of the server's own."""
    assert ollama.binary is not None
    small = tmp_path / "own" / "models"
    small.mkdir(parents=True)
    mount = f"mount -t tmpfs -o size=1m tmpfs {small}"
    enter = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if subprocess.run([*enter, mount], capture_output=True, check=False).returncode != 0:
        pytest.skip("this machine lets nobody mount a file system in a namespace")
    wrapper = tmp_path / "ollama"
    wrapper.write_text(
        f'#!/bin/sh\n[ "$1" = serve ] || exec {ollama.binary} "$@"\n'
        f"exec {' '.join(enter)} '{mount} && exec {ollama.binary} serve'\n"
    )
    wrapper.chmod(0o755)
    write_tiny_gguf(model / "m.gguf", hidden=512)
    with server(tmp_path / "own", binary=wrapper) as client:
        with (
            pytest.raises(OllamaError, match="no space left") as caught,
            trial(client, "tiny", model, model / MODELFILE),
        ):
            pass
        assert "free space where Ollama keeps its models" in caught.value.mend
        assert client.names() == []
        (pid,) = processes_with(f"OLLAMA_MODELS={small}", "serve")
        assert _blobs(Path(f"/proc/{pid}/root{small}")) == []


def test_server_that_dies_is_told_and_the_trial_is_removed(
    ollama: Client, model: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own"
    with server(own, binary=ollama.binary) as client:
        with (
            pytest.raises(OllamaError, match=r"went away|no Ollama answers") as caught,
            trial(
                client,
                "tiny",
                model,
                model / MODELFILE,
                reopen=lambda: server(own, binary=ollama.binary),
            ) as name,
        ):
            _kill(own)
            client.generate(name, "hi")
        assert "may be left" not in caught.value.mend
        assert list((own / "models" / "manifests").rglob("latest")) == []
    with server(own, binary=ollama.binary) as client:
        with (
            pytest.raises(OllamaError) as caught,
            trial(client, "tiny", model, model / MODELFILE) as name,
        ):
            _kill(own)
            client.generate(name, "hi")
        assert f"`ollama rm {name}`" in caught.value.mend


def test_terminated_command_leaves_neither_server_nor_trial(
    ollama: Client, model: Path, tmp_path: Path
) -> None:
    store = tmp_path / "store"
    with _waiting_command(ollama, model, store) as process:
        deadline = time.monotonic() + 30
        while not list(store.rglob(f"{NAMESPACE}/tiny/latest")):
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 128 + signal.SIGTERM
    assert processes_with(f"OLLAMA_MODELS={store}") == []
    assert list(store.rglob("latest")) == []


def test_neither_server_nor_program_says_how_to_get_one(model: Path, tmp_path: Path) -> None:
    environment = {"PATH": "/nowhere", "OLLAMA_HOST": f"127.0.0.1:{free_port()}"}
    code = (
        "import sys; sys.executable = '/nowhere/python'\n"
        "from toolchain.cli import main\n"
        f"sys.exit(main(['ollama', '--target', 'laptop', '--out', {str(tmp_path)!r}]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: there is no Ollama") and "ollama.com" in done.stderr


def test_another_server_gets_no_model(model: Path) -> None:
    client = Client(f"http://127.0.0.1:{free_port()}")
    with (
        pytest.raises(UserError, match="no Ollama answers"),
        trial(client, "a", model, model / "M"),
    ):
        pass


def _kill(folder: Path) -> None:
    for pid in processes_with(f"OLLAMA_MODELS={folder / 'models'}"):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def _waiting_command(client: Client, model: Path, store: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds a trial in a server of its own, as `edgeforge ollama` does."""
    code = f"""
import contextlib, time
from pathlib import Path
from common.stopping import tidy_when_ended
from runtimes.ollama_server import server
from toolchain.export.ollama.trial import trial
model = Path({str(model)!r})
with tidy_when_ended(), server(binary=Path({str(client.binary)!r})) as client:
    with trial(client, "tiny", model, model / "Modelfile", reopen=server):
        time.sleep(60)
"""
    environment = {**os.environ, "OLLAMA_MODELS": str(store), "HOME": str(store.parent)}
    with subprocess.Popen(
        [sys.executable, "-c", code],
        env={**environment, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()
