"""The Ollama client and server, against a real Ollama where there is one."""

from __future__ import annotations

import http.server
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from ollama_models import write_tiny_gguf
from ollama_programs import every_version, processes_with, served

from runtimes.ollama import Client, OllamaError, base_url, check_name, find_binary
from runtimes.ollama_server import free_port, server

SAID = "Helo wrd."
TALK = [{"role": "user", "content": "hi"}]
MODELFILE = (
    'FROM ./tiny.gguf\nTEMPLATE """{{ range .Messages }}<{{ .Role }}>{{ .Content }}{{ end }}="""\n'
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GGUF that says `SAID`, and its Modelfile."""
    folder = tmp_path_factory.mktemp("model")
    write_tiny_gguf(folder / "tiny.gguf", say=SAID)
    (folder / "Modelfile").write_text(MODELFILE)
    return folder


@pytest.fixture(scope="module", params=every_version())
def client(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, folder: Path
) -> Iterator[Client]:
    """A real server, of each version, that holds the tiny model; skips where there is none."""
    for client in served(request.param, tmp_path_factory.mktemp("ollama")):
        client.create("tiny", folder / "Modelfile")
        yield client


def test_model_answers_and_stops(client: Client) -> None:
    reply = client.chat("tiny", TALK, options={"temperature": 0, "num_predict": 40})
    assert reply["message"]["content"] == SAID
    assert reply["done_reason"] == "stop"
    assert reply["prompt_eval_count"] == 1 + len("<user>hi=")
    reply = client.generate("tiny", "x", raw=True, options={"temperature": 0, "num_predict": 4})
    assert reply["response"] == SAID[:4]
    assert reply["done_reason"] == "length"


def test_rendered_prompt_is_the_templates(client: Client) -> None:
    talk = [{"role": "system", "content": "{{ s }}"}, *TALK]
    assert client.render("tiny", talk) == "<system>{{ s }}<user>hi="


def test_show_names_and_remove(client: Client, folder: Path) -> None:
    shown = client.show("tiny")
    assert shown["details"]["quantization_level"] == "F16"
    assert shown["template"] == MODELFILE.split('"""')[1]
    client.create("again:v1", folder / "Modelfile")
    assert set(client.names()) == {"tiny:latest", "again:v1"}
    client.remove("again:v1")
    assert client.names() == ["tiny:latest"]
    with pytest.raises(OllamaError, match="not found"):
        client.remove("again:v1")


def test_failed_create_tells_the_reason(client: Client, tmp_path: Path) -> None:
    (tmp_path / "Modelfile").write_text("FROM ./x.gguf\nTEMPLATE {{ .Unclosed\n")
    (tmp_path / "x.gguf").write_bytes(b"GGUF but nothing more")
    with pytest.raises(OllamaError, match=r"`ollama create bad` failed: \S+"):
        client.create("bad", tmp_path / "Modelfile")
    assert "bad:latest" not in client.names()


def test_version_is_the_programs(client: Client) -> None:
    assert client.version() >= (0, 1)


def test_copy_and_reading_of_tensors(client: Client) -> None:
    client.copy("tiny", "me/second:v2")
    assert client.exists("me/second:v2") and not client.exists("third")
    kinds = {tensor["type"] for tensor in client.tensors("me/second:v2")}
    assert kinds == {"F16", "F32"}
    client.generate("tiny", "x", options={"num_predict": 1})
    assert [row["name"] for row in client.loaded()] == ["tiny:latest"]
    client.remove("me/second:v2")
    assert not client.exists("me/second:v2") and client.exists("tiny")


def test_request_to_generate_is_rendered(client: Client) -> None:
    assert client.render_generate("tiny", "hi", "s") == "<system>s<user>hi="


@pytest.mark.parametrize("program", every_version())
def test_server_and_its_runners_are_gone_afterwards(
    program: Path, folder: Path, tmp_path: Path
) -> None:
    with server(tmp_path / "own", binary=program) as client:
        client.create("tiny", folder / "Modelfile")
        client.chat("tiny", TALK, options={"num_predict": 4})
        marker = f"OLLAMA_MODELS={tmp_path / 'own' / 'models'}"
        assert len(processes_with(marker)) >= 2, "the server and a runner"
    assert processes_with(marker) == []
    assert not client.is_running()
    assert (tmp_path / "own" / "models" / "manifests").is_dir()


def test_server_that_cannot_start_says_where_to_look(tmp_path: Path) -> None:
    failing = tmp_path / "ollama"
    failing.write_text("#!/bin/sh\necho no disk >&2\nexit 7\n")
    failing.chmod(0o755)
    with (
        pytest.raises(OllamaError, match="ended with code 7") as caught,
        server(tmp_path / "own", binary=failing),
    ):
        pass
    log = tmp_path / "own" / "ollama-serve.log"
    assert str(log) in caught.value.mend
    assert log.read_text() == "no disk\n"


def test_no_ollama_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(OllamaError, match="no Ollama on this machine") as caught:
        find_binary()
    assert "https://ollama.com/download" in caught.value.mend
    assert "scripts/install_ollama.sh" in caught.value.mend


def test_not_running_is_an_error_with_the_mend() -> None:
    client = Client(f"http://127.0.0.1:{free_port()}")
    assert not client.is_running()
    with pytest.raises(OllamaError, match="no Ollama answers") as caught:
        client.show("tiny")
    assert "ollama serve" in caught.value.mend


def test_another_server_is_not_taken_for_ollama() -> None:
    handler = http.server.SimpleHTTPRequestHandler
    handler.log_message = lambda *_: None  # type: ignore[method-assign]
    with http.server.HTTPServer(("127.0.0.1", 0), handler) as other:
        threading.Thread(target=other.serve_forever, daemon=True).start()
        url = f"http://127.0.0.1:{other.server_port}"
        assert urllib.request.urlopen(url).status == 200
        assert not Client(url).is_running()
        other.shutdown()


@pytest.mark.parametrize("name", ["a", "edgeforge-demo-laptop", "me/model.1:v_2", "9x:latest"])
def test_names_that_ollama_takes(name: str) -> None:
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", "-f", "--help", "a b", "a/b/c", "../x", "a:", ":a", "a;b", "ä", "a\n", "x" * 81, "a:-b"],
)
def test_names_that_are_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(OllamaError, match="no name for an Ollama model"):
        check_name(name)
    with pytest.raises(OllamaError, match="no name for an Ollama model"):
        Client("http://127.0.0.1:1", tmp_path / "ollama").create(name, tmp_path / "Modelfile")


@pytest.mark.parametrize(
    ("host", "url"),
    [
        ("", "http://127.0.0.1:11434"),
        ("127.0.0.1:8080", "http://127.0.0.1:8080"),
        (":8080", "http://127.0.0.1:8080"),
        ("0.0.0.0", "http://127.0.0.1:11434"),
        ("box", "http://box:11434"),
        ("http://box", "http://box:80"),
        ("https://box", "https://box:443"),
        ("https://box:8443/ollama/", "https://box:8443/ollama"),
        ("[::1]:99", "http://[::1]:99"),
        ("[::]", "http://[::1]:11434"),
        ('"box:1"', "http://box:1"),
    ],
)
def test_address_is_read_as_ollama_reads_it(
    host: str, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OLLAMA_HOST", host)
    assert base_url() == url


@pytest.mark.parametrize("host", ["box:port", "ftp://box", "[::1"])
def test_wrong_address_is_refused(host: str) -> None:
    with pytest.raises(OllamaError, match="OLLAMA_HOST"):
        base_url(host)
