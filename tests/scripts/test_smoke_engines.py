"""The smoke test with the engines that a device may have: real ones where there are any."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from tiny_bundle import make_bundle

from common.errors import UserError
from runtimes.ollama import Client, base_url, find_binary
from runtimes.ollama_server import free_port, server
from toolchain import child
from toolchain.export.smoke_script import smoke_script

DEMO = child.ROOT / "toolchain/assets/demo-model"
NOBODY = f"127.0.0.1:{free_port()}"  # no Ollama answers there
FIGURES = ("load_sec", "prefill_tokens_per_sec", "decode_tokens_per_sec", "ttft_sec")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Of the demo model: a trained one is sure of its answers, however an engine rounds."""
    root = tmp_path_factory.mktemp("engines")
    return make_bundle(DEMO, root / "out", task=True, proof=False)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the Ollama of these tests keeps its models: its runners name it."""
    return tmp_path_factory.mktemp("smoke-store")


@pytest.fixture(scope="module")
def ollama(store: Path) -> Iterator[Client]:
    try:
        find_binary()
    except UserError as error:
        pytest.skip(error.problem)
    with server(store) as client:
        yield client


def need(*programs: str) -> None:
    if not any(shutil.which(program) for program in programs):
        pytest.skip(f"{' and '.join(programs)} not on PATH")


def smoke(
    bundle: Path, out: Path, *arguments: str, python: str = sys.executable, **variables: str
) -> tuple[int, Mapping[str, Any], str]:
    """Exit code, the result, everything printed; one thread, since the machine may be busy."""
    report = out / "result.json"
    options = ["--json", str(report), "--quick", "--threads", "1", *arguments]
    done = subprocess.run(
        [python, "-B", str(bundle / "smoke_test.py"), *options],
        env={**os.environ, "OLLAMA_HOST": NOBODY, **variables},
        capture_output=True,
        text=True,
        timeout=200,
    )
    data = json.loads(report.read_text("utf-8")) if report.is_file() else {}
    return done.returncode, data, done.stdout + done.stderr


def checks(data: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {check["name"]: check for check in data["checks"]}


def prove(data: Mapping[str, Any], name: str, printed: str) -> None:
    """Every figure is there, and the answers agree as far as another engine's must."""
    found = checks(data)
    assert data["engine"]["name"] == name, printed
    assert found["prompt_token_ids"]["value"] == 0, printed
    assert found["agreeing_prefix"]["value"] >= 0.5, printed
    assert found["stop_token"]["value"] == 0, printed
    assert all(found[figure]["value"] > 0 for figure in FIGURES), printed
    assert found["peak_rss_bytes"]["value"] > 1 << 20, printed


def test_llama_server_gives_the_same_tokens_and_is_gone(bundle: Path, tmp_path: Path) -> None:
    need("llama-server")
    code, data, printed = smoke(bundle, tmp_path, "--engine", "llama-server")
    prove(data, "llama-server", printed)
    assert (code, checks(data)["equal_answers"]["value"]) == (0, 1.0), printed
    assert data["engine"]["version"] and data["engine"]["features"]
    assert processes_with(bundle.name, "llama-server") == []


def test_a_killed_smoke_test_leaves_no_server(bundle: Path, tmp_path: Path) -> None:
    need("llama-server")
    for sign in (signal.SIGTERM, signal.SIGKILL):
        command = [sys.executable, str(bundle / "smoke_test.py"), "--engine", "llama-server"]
        test = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_for(lambda: processes_with(str(bundle), "llama-server"))
        test.send_signal(sign)
        test.wait(timeout=20)
        wait_for(lambda: not processes_with(str(bundle), "llama-server"))


def test_programs_that_answer_once_are_used_too(bundle: Path, tmp_path: Path) -> None:
    need("llama-simple", "llama-completion")
    code, data, printed = smoke(bundle, tmp_path, "--engine", "llama-cli")
    prove(data, "llama-cli", printed)
    assert code == 0, printed


def test_ollama_takes_the_model_answers_and_forgets_it(
    bundle: Path, ollama: Client, store: Path, tmp_path: Path
) -> None:
    code, data, printed = smoke(bundle, tmp_path, OLLAMA_HOST=ollama.url)
    prove(data, "ollama", printed)
    assert code == 0, printed
    assert checks(data)["prompt_token_ids"]["note"].startswith("counted")
    assert ollama.names() == []
    wait_for(lambda: not processes_with("--model", str(store)))


def test_an_ollama_that_refuses_is_named_and_the_next_engine_used(
    bundle: Path, ollama: Client, tmp_path: Path
) -> None:
    damaged = unknown_architecture(bundle, tmp_path / "bundle")
    code, _, printed = smoke(damaged, tmp_path, OLLAMA_HOST=ollama.url)
    assert code == 2, printed
    assert f"Ollama {'.'.join(map(str, ollama.version()))}" in printed
    assert "llama.cpp cannot load" in printed and "Traceback" not in printed
    assert ollama.names() == []


def test_an_engine_that_refuses_is_named_and_the_next_one_used(
    bundle: Path, tmp_path: Path
) -> None:
    old = tmp_path / "bin" / "llama-server"
    old.parent.mkdir()
    old.write_text("#!/bin/sh\necho \"error: unknown model architecture: 'tiny'\" >&2\nexit 1\n")
    old.chmod(0o755)
    path = os.pathsep.join([str(old.parent), "/usr/bin", "/bin"])
    code, data, printed = smoke(bundle, tmp_path, PATH=path)
    assert code == 0 and data["engine"]["name"] == "llama-cpp-python", printed
    assert "passed over: llama-server refuses the model: error: unknown model arch" in printed
    passed_over = {one["name"]: one["there"] for one in data["engines_passed_over"]}
    assert passed_over["llama-server"] and not passed_over["ollama"]
    code, _, printed = smoke(bundle, tmp_path, "--engine", "llama-server", PATH=path)
    assert code == 2 and "unknown model architecture" in printed


def test_names_that_are_no_engine_are_refused_with_the_choices(
    bundle: Path, tmp_path: Path
) -> None:
    code, data, printed = smoke(bundle, tmp_path, "--engine", "vllm")
    assert code == 2 and not data
    assert "choose one of auto, ollama, llama-server, llama-cli, llama-cpp-python" in printed
    code, _, printed = smoke(bundle, tmp_path, "--engine", "onnxruntime")
    assert code == 2 and "onnxruntime cannot run model-Q4_K_M.gguf" in printed


def test_python_3_8_needs_no_package_for_a_server(
    bundle: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    python = python_3_8()
    if shutil.which("llama-server"):
        code, data, printed = smoke(bundle, tmp_path, "--engine", "llama-server", python=python)
    else:
        url = request.getfixturevalue("ollama").url
        code, data, printed = smoke(bundle, tmp_path, python=python, OLLAMA_HOST=url)
    assert code == 0 and data["machine"]["python"].startswith("3.8"), printed


@pytest.mark.parametrize("host", ["", "127.0.0.1:8080", ":8080", "0.0.0.0", "box", "https://box/o"])
def test_ollama_s_address_is_read_as_elsewhere(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    names: dict[str, Any] = {"__name__": "smoke_test"}
    monkeypatch.setitem(sys.modules, "smoke_test", type(sys)("smoke_test"))
    exec(compile(smoke_script(), "smoke_test.py", "exec"), names)
    assert names["ollama_url"](host) == base_url(host)


def unknown_architecture(bundle: Path, copy: Path) -> Path:
    """The bundle with a model of an architecture that no engine knows."""
    from toolchain.export.bundle import write_sums

    shutil.copytree(bundle, copy)
    model = copy / "model-Q4_K_M.gguf"
    data = model.read_bytes()
    name = b"general.architecture" + (8).to_bytes(4, "little") + (5).to_bytes(8, "little")
    assert name + b"llama" in data
    model.write_bytes(data.replace(name + b"llama", name + b"newer", 1))
    write_sums(copy)
    return copy


def python_3_8() -> str:
    """A Python 3.8: $PYTHON38, else one on PATH that runs."""
    for name in (os.environ.get("PYTHON38", ""), "python3.8"):
        found = shutil.which(name) if name else None
        if found and subprocess.run([found, "-V"], capture_output=True).returncode == 0:
            return found
    pytest.skip("there is no Python 3.8 (set PYTHON38 to one)")


def processes_with(*words: str) -> list[int]:
    """Processes with all of these words on their command line (Linux)."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if all(word in line for word in words) and "smoke_test.py" not in line:
            found.append(int(entry.name))
    return found


def wait_for(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
