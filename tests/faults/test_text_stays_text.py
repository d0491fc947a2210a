"""Part 5: strings of models, rows and devices stay text: in pages, on terminals, over HTTP."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import pty
import re
import socket
import sys
import time
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from report_facts import manifest, reported_bundle
from tiny_bundle import make_bundle
from tiny_models import tiny_llama

from common.errors import UserError
from common.terminal import shown
from common.yaml_text import parse_yaml
from toolchain.report.blocks import html_page, html_section, markdown_page
from toolchain.report.facts import read_facts
from toolchain.report.page import sections, title
from toolchain.report.strings import LANGUAGES
from toolchain.report.write import write_report

HOSTILE = (
    "<script>alert(1)</script><b id=\"evil\" onclick='x'>&lt;\"'</b></td></table></pre></svg>"
    "\x1b]0;evil\x07 [evil](http://evil) \u202e"
)


class Page(HTMLParser):
    """What a browser would make of a page: its tags, and every attribute that does something."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.active: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.active += [f"{name}={value}" for name, value in attrs if name.startswith("on")]
        self.active += [f"{name}={value}" for name, value in attrs if "evil" in str(value)[:10]]


def test_no_string_of_a_report_becomes_markup(
    tmp_path: Path, whole: bool, proven: Callable[..., None]
) -> None:
    start = time.monotonic()
    facts = read_facts(reported_bundle(tmp_path / "bundle", manifest()))
    count = injected(facts, whole_report)
    assert count > 25
    if whole:
        model = tiny_llama(tmp_path / "tiny", hidden=64, heads=4, kv_heads=2, ffn=96)
        bundle = make_bundle(model, tmp_path / "made", proof=False)
        count += injected(json.loads((bundle / "manifest.json").read_text("utf-8")), shipped_report)
    seconds = time.monotonic() - start
    proven("5 no code from data", "strings of reports, one by one", count, "strings", seconds)


def injected(facts: Any, render: Callable[[Any], tuple[str, str]]) -> int:
    """Add markup to each string in turn; how many of them the pages show."""
    render(facts)
    count = 0
    for place in leaves(facts):
        changed = copy.deepcopy(facts)
        append(changed, place, HOSTILE)
        try:
            page, markdown = render(changed)
        except (KeyError, ValueError, UserError):
            continue  # a word of ours, such as a status: another one is refused
        found = Page(page)
        assert "script" not in found.tags, place
        assert not found.active, place
        prose = re.sub(r"(?ms)^(```+).*?^\1", "", markdown)  # code shows all as it is
        assert "<script" not in prose and "](http" not in prose, place
        count += "evil" in page + markdown
    return count


def whole_report(facts: dict[str, Any]) -> tuple[str, str]:
    """HTML and Markdown of what is known of a bundle, in all languages."""
    parts, texts = [], []
    for language in LANGUAGES:
        heading, body = title(facts, language), sections(facts, language)
        parts.append(html_section(language, heading, body))
        texts.append(markdown_page(heading, body))
    names = dict.fromkeys(LANGUAGES, "name")
    return html_page(title(facts, LANGUAGES[0]), names, "".join(parts)), "\n".join(texts)


def shipped_report(manifest: dict[str, Any]) -> tuple[str, str]:
    """The Markdown that ships in a bundle, in all languages."""
    return "", "\n".join(write_report(manifest, language) for language in LANGUAGES)


def leaves(value: Any, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Places of all strings."""
    if isinstance(value, str):
        yield place
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield from leaves(inner, (*place, key))
    elif isinstance(value, list | tuple):
        for number, inner in enumerate(value):
            yield from leaves(inner, (*place, number))


def append(value: Any, place: tuple[Any, ...], text: str) -> None:
    for key in place[:-1]:
        value = value[key]
    if isinstance(value, tuple):
        pytest.skip("facts from JSON have no tuples")
    value[place[-1]] += text


def test_errors_and_output_hold_no_command_for_a_terminal() -> None:
    error = UserError(f"model {HOSTILE}\nhint: do evil", HOSTILE, details=[HOSTILE])
    lines = str(error).splitlines()
    assert len(lines) == 3 and not set(str(error)) & {"\x1b", "\x07", "\u202e"}
    assert r"\x1b]0;evil\x07" in lines[0] and r"\nhint: do evil" in lines[0]
    primary, secondary = pty.openpty()
    with os.fdopen(secondary, "w", encoding="utf-8", newline="") as terminal:
        shown(terminal).write("caf\u00e9 \x1b[2J\r\x9b31m\tend\n")
        shown(terminal).flush()
        told = os.read(primary, 4096).decode()
    os.close(primary)
    assert told.replace("\r\n", "\n") == "caf\u00e9 \\x1b[2J\\x0d\\x9b31m\tend\n"
    into_file = io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    assert shown(into_file) is into_file  # a file or pipe gets every character


@pytest.mark.parametrize(
    "text",
    [
        "!!python/object/apply:os.system [true]",
        "!!python/name:os.system",
        "a: &a [x, *a]",
        "&a {b: *a}",
        "[" * 5000,
        "a: 2024-99-99",
        "9" * 5000,
        "!!float x",
        "? [a]\n: b",
        "a: b: c",
        "\x00",
        "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
        + "".join(
            f"{b}: &{b} [{','.join(['*' + a] * 10)}]\n"
            for a, b in zip("abcdef", "bcdefg", strict=True)
        ),
    ],
)
def test_yaml_builds_plain_values_and_few(text: str) -> None:
    import yaml

    with pytest.raises(yaml.YAMLError):
        parse_yaml(text)
    assert parse_yaml("a: &x {b: 1}\nc: *x\nd: 2024-01-01") and parse_yaml("") is None


REQUESTS = {
    "upwards": (b"GET /../../etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "encoded upwards": (b"GET /%2e%2e/%2e%2e/etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "a file's address": (b"GET file:///etc/passwd HTTP/1.1\r\nHost: localhost\r\n\r\n", 404),
    "another host": (b"GET /v1/models HTTP/1.1\r\nHost: evil.example\r\n\r\n", 403),
    "a body too large": (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\n\r\n",
        413,
    ),
    "a length of 5000 digits": (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: "
        + b"9" * 5000
        + b"\r\n\r\n",
        413,
    ),
    "a length below zero": (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        411,
    ),
    "a line too long": (b"GET /" + b"x" * 70000 + b" HTTP/1.1\r\n\r\n", 414),
    "no version": (b"GET /v1/models\r\n\r\n", 403),
    "no HTTP": (b"\x16\x03\x01\x02 x HTTP/9\r\nHost: localhost\r\n\r\n", 400),
    "JSON nested deeply": (
        b"POST /v1/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 50000\r\n\r\n"
        + b"[" * 50000,
        400,
    ),
}


@pytest.mark.timeout(600)
def test_the_server_reads_no_path_and_no_more_than_it_should(
    tmp_path: Path, whole: bool, proven: Callable[..., None]
) -> None:
    if not whole:
        pytest.skip("in the whole suite")
    sys.path.append(str(Path(__file__).parents[1] / "serve"))
    from servers import serving

    start = time.monotonic()
    model = tiny_llama(tmp_path / "tiny", hidden=64, heads=4, kv_heads=2, ffn=96)
    with serving(model) as server:
        for name, (request, status) in REQUESTS.items():
            reply = ask(server.port, request)
            told = reply.startswith(f"HTTP/1.1 {status} ".encode())
            assert told or b'"error"' in reply.split(b"\r\n")[0], (name, reply[:200])
            assert b"root:" not in reply, name
        found, body = server.request("GET", "/health")
        assert found == 200, json.dumps(body)
    proven(
        "5 no code from data",
        "requests to the server",
        len(REQUESTS),
        "requests",
        time.monotonic() - start,
    )


def ask(port: int, request: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", port), timeout=60) as line:
        line.sendall(request)
        reply = b""
        with contextlib.suppress(ConnectionResetError):
            while block := line.recv(1 << 16):
                reply += block
                if b"\r\n\r\n" in reply:
                    break
    return reply
