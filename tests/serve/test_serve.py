"""`edgeforge serve` as a process: OpenAI's own client, plain sockets, signals."""

from __future__ import annotations

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from command_line import edgeforge
from servers import Running, serving
from tiny_bundle import make_bundle
from tiny_models import tiny_llama

HELLO = [{"role": "user", "content": "hello"}]


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("made")
    checkpoint = tiny_llama(root / "tiny", hidden=64, ffn=96)
    return make_bundle(checkpoint, root / "build", proof=False)


@pytest.fixture(scope="module")
def server(bundle: Path) -> Iterator[Running]:
    with serving(bundle) as running:
        yield running


@pytest.fixture(scope="module")
def client(server: Running) -> Any:
    openai = pytest.importorskip("openai", reason="the extra dev is not installed")
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, timeout=60)


def rows(bundle: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (bundle / "prompts.jsonl").read_text("utf-8").splitlines()]


def test_greedy_answers_are_those_recorded_in_the_bundle(
    bundle: Path, server: Running, client: Any
) -> None:
    (model,) = client.models.list().data
    assert model.id == "tiny-laptop" and client.models.retrieve(model.id).id == model.id
    for row in rows(bundle):
        settings = {"model": model.id, "max_tokens": row["max_new_tokens"]}
        made = client.chat.completions.create(messages=row["messages"], **settings)
        assert made.choices[0].message.content == row["expected"]
        assert made.choices[0].finish_reason == ("stop" if row["stopped"] else "length")
        counts = (made.usage.prompt_tokens, made.usage.completion_tokens)
        assert counts == (len(row["token_ids"]), len(row["expected_token_ids"]))
        plain = client.completions.create(prompt=row["token_ids"], **settings)
        assert plain.choices[0].text == row["expected"]


def test_a_stream_gives_the_same_text_and_the_counts(
    bundle: Path, server: Running, client: Any
) -> None:
    row = rows(bundle)[0]
    chunks = list(
        client.chat.completions.create(
            model="tiny-laptop",
            messages=row["messages"],
            max_completion_tokens=row["max_new_tokens"],
            stream=True,
            stream_options={"include_usage": True},
        )
    )
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks[:-1])
    assert text == row["expected"] and len(chunks) > 3
    assert chunks[-1].usage.completion_tokens == len(row["expected_token_ids"])
    assert chunks[-2].choices[0].finish_reason in ("stop", "length")
    plain = client.completions.create(
        model="tiny-laptop", prompt=row["token_ids"], max_tokens=row["max_new_tokens"], stream=True
    )
    assert "".join(chunk.choices[0].text for chunk in plain) == row["expected"]


def test_sampling_repeats_with_its_seed_and_stops_at_texts(server: Running) -> None:
    def made(**more: Any) -> dict[str, Any]:
        status, reply = server.post("/completions", prompt="lamp on", max_tokens=24, **more)
        assert status == 200
        return dict(reply["choices"][0])

    drawn = made(temperature=1.5, seed=7, top_p=0.99)
    assert drawn == made(temperature=1.5, seed=7, top_p=0.99)
    assert drawn["text"] != made(temperature=1.5, seed=8, top_p=0.99)["text"]
    text = drawn["text"]
    stop = text[len(text) // 2 :][:3]
    cut = made(temperature=1.5, seed=7, top_p=0.99, stop=[stop])
    assert cut["finish_reason"] == "stop" and cut["text"] == text[: text.index(stop)]


def test_faults_come_in_openais_form(server: Running) -> None:
    def fault(status: int, reply: tuple[int, Any]) -> dict[str, Any]:
        assert reply[0] == status, reply
        return dict(reply[1]["error"])

    chat = "/chat/completions"
    assert "no JSON" in fault(400, server.request("POST", f"/v1{chat}", b"{"))["message"]
    found = fault(404, server.post(chat, model="other", messages=HELLO))
    assert found["code"] == "model_not_found" and "tiny-laptop" in found["message"]
    long = [{"role": "user", "content": "word " * 4000}]
    found = fault(400, server.post(chat, messages=long))
    assert found["code"] == "context_length_exceeded" and found["param"] == "messages"
    assert fault(400, server.post(chat, messages=HELLO, min_p=1))["param"] == "min_p"
    assert fault(400, server.post("/completions", prompt=""))["param"] == "prompt"
    assert "no token" in fault(400, server.post("/completions", prompt=[10**9]))["message"]
    assert "known: " in fault(404, server.request("GET", "/v1/files"))["message"]
    assert "wants POST" in fault(405, server.request("GET", f"/v1{chat}"))["message"]
    assert "Unsupported method" in fault(501, server.request("PUT", "/health"))["message"]
    assert "not supported" in fault(400, server.post(chat, messages=HELLO, tools=[{}]))["message"]
    fault(403, server.request("GET", "/health", Host="evil.example"))
    fault(411, server.request("POST", f"/v1{chat}", None, **{"Transfer-Encoding": "chunked"}))
    fault(413, server.request("POST", f"/v1{chat}", b"", **{"Content-Length": str(1 << 40)}))
    status, health = server.request("GET", "/health")
    assert status == 200 and health["status"] == "ok" and health["facts"]["kind"] == "bundle"


def test_a_client_that_leaves_stops_its_answer(server: Running) -> None:
    """Endless answers (no stop token is likely in so many) would hold the queue for minutes."""
    for stream in (True, False):
        body = json.dumps({"prompt": "x", "max_tokens": 1 << 20, "stream": stream}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
        with socket.create_connection(("127.0.0.1", server.port)) as leaving:
            leaving.sendall(head.encode() + b"\r\n\r\n" + body)
            if stream:
                assert leaving.recv(16).startswith(b"HTTP/1.1 200")
        until = time.monotonic() + 5
        while server.request("GET", "/health")[1]["busy"]:
            assert time.monotonic() < until, "the answer goes on"
            time.sleep(0.02)


def test_two_at_once_are_answered_one_after_the_other(
    bundle: Path, server: Running, client: Any
) -> None:
    from concurrent.futures import ThreadPoolExecutor

    row = rows(bundle)[1]

    def ask(_: int) -> str:
        made = client.chat.completions.create(
            model="tiny-laptop", messages=row["messages"], max_tokens=row["max_new_tokens"]
        )
        return str(made.choices[0].message.content)

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(ask, range(12))) == {row["expected"]}


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_end_it_cleanly_in_the_midst_of_an_answer(bundle: Path, number: int) -> None:
    with serving(bundle) as running:
        body = json.dumps({"prompt": "x", "max_tokens": 1 << 20, "stream": True}).encode()
        head = f"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}"
        with socket.create_connection(("127.0.0.1", running.port), timeout=30) as asking:
            asking.sendall(head.encode() + b"\r\n\r\n" + body)
            data = asking.recv(1 << 16)
            assert running.end(number) == 0
            while more := asking.recv(1 << 16):
                data += more
        # A short answer may have ended by itself.
        assert b"[DONE]" in data or b"the server is stopping" in data
        assert "Traceback" not in str(running.process.stderr and running.process.stderr.read())


def test_a_port_in_use_and_an_unknown_host_are_named_before_the_model_loads(
    bundle: Path, server: Running
) -> None:
    taken = edgeforge("serve", bundle, "--port", server.port)
    assert taken.returncode == 2 and "Address already in use" in taken.stderr
    unknown = edgeforge("serve", bundle, "--host", "no.such.host.invalid")
    assert unknown.returncode == 2 and "is not known" in unknown.stderr


def test_more_than_loopback_is_warned_of(bundle: Path) -> None:
    with serving(bundle, "--host", "0.0.0.0") as running:
        assert running.request("GET", "/health", Host="some-host")[0] == 200
        assert running.end() == 0
        assert running.process.stderr is not None
        assert "asks for no password" in running.process.stderr.read()
