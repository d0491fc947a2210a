"""HTTP on the server's side: requests in, JSON or server-sent events out, faults in OpenAI's form.

Plain `http.server`: one thread a connection, one turn at the model. Web pages cannot use it: a
request must name this server as its host (a guard against DNS rebinding) and no page is granted the
reply.
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import select
import socket
import sys
import time
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

from common.errors import UserError
from toolchain.serve.errors import Gone, RequestError
from toolchain.serve.service import Events, Service, model_list
from toolchain.serve.turns import Turns

MODELS, HEALTH = "/v1/models", "/health"
_MOST_BODY_BYTES = 32 << 20
_MOST_DIGITS = 20  # of a length: Python reads no number of thousands


class Server(ThreadingHTTPServer):
    """Serves one model. `address_family` is set before it is made (IPv6)."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], family: socket.AddressFamily, service: Service):
        self.address_family = family
        self.service, self.turns = service, Turns()
        super().__init__(address, Handler)

    @property
    def only_loopback(self) -> bool:
        """Whether nobody but this machine reaches it."""
        return is_loopback(str(self.server_address[0]))

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no event."""
        error = sys.exception()
        if not isinstance(error, ConnectionError | TimeoutError):
            print(f"connection failed: {type(error).__name__}: {error}", file=sys.stderr)


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    server_version = "edgeforge"
    sys_version = ""
    timeout = 60.0
    server: Server

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What `http.server` itself refuses, in the same form."""
        status = HTTPStatus(code)
        self._fault(RequestError(message or status.phrase, status=status))

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: `_answer` writes one line a request."""

    def _answer(self, work: Any) -> None:
        start, self._status = time.perf_counter(), HTTPStatus.OK
        try:
            self._require_own_host()
            work(urlsplit(self.path).path.rstrip("/"))
        except (Gone, ConnectionError, TimeoutError):
            self.close_connection = True
            self._log("client gone", start)
            return
        except Exception as error:
            self._fault(_of(error))
        self._log(str(int(self._status)), start)

    def _get(self, path: str) -> None:
        service = self.server.service
        if path == HEALTH:
            turns = self.server.turns
            state = {"status": "ok", "busy": turns.busy, "waiting": turns.waiting}
            self._json({**state, "model": service.name, **{"facts": dict(service.facts)}})
        elif path == MODELS:
            self._json(model_list(service))
        elif path == f"{MODELS}/{service.name}":
            self._json(model_list(service)["data"][0])
        else:
            self._unknown(path, "POST" if path in service.paths else None)

    def _post(self, path: str) -> None:
        service, turns = self.server.service, self.server.turns
        body = self._body()
        if path not in service.paths:
            self._unknown(path, "GET" if path in (MODELS, HEALTH) else None)
        asked = service.read(path, body)
        with turns.take(self._gone):
            reply = service.answer(path, asked, lambda: turns.closing.is_set() or self._gone())
            if isinstance(reply, Events):
                self._events(reply)
            else:
                self._json(reply)

    def _unknown(self, path: str, method: str | None) -> None:
        if method:
            raise RequestError(
                f"{path} wants {method}", status=HTTPStatus.METHOD_NOT_ALLOWED, code="method"
            )
        known = ", ".join((*self.server.service.paths, MODELS, HEALTH))
        raise RequestError(
            f"there is no {path} here; known: {known}", status=HTTPStatus.NOT_FOUND, code="path"
        )

    def _body(self) -> Any:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal():
            self.close_connection = True
            raise RequestError(
                "the request has no Content-Length", status=HTTPStatus.LENGTH_REQUIRED
            )
        if len(length) > _MOST_DIGITS or int(length) > _MOST_BODY_BYTES:
            self.close_connection = True
            raise RequestError(
                f"the body is larger than {_MOST_BODY_BYTES} bytes",
                status=HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            )
        data = self.rfile.read(int(length))
        if len(data) < int(length):
            raise Gone
        try:
            return json.loads(data)
        except (ValueError, RecursionError) as error:
            raise RequestError(f"the body is no JSON: {error}", code="invalid_json") from None

    def _json(self, value: dict[str, Any], status: HTTPStatus = HTTPStatus.OK) -> None:
        data = json.dumps(value, ensure_ascii=False).encode("utf-8", "replace")
        self._status = status
        self.send_response(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(data)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)

    def _events(self, reply: Events) -> None:
        """Server-sent events; the connection's end is the reply's end."""
        self.close_connection = True
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", "text/event-stream; charset=utf-8")
        self.send_header("Cache-Control", "no-store")
        self.send_header("Connection", "close")
        self.end_headers()
        failed = False
        with contextlib.closing(reply.items):  # type: ignore[type-var]  # a generator, which stops
            for item in self._safe(reply):
                failed = failed or "error" in item
                text = json.dumps(item, ensure_ascii=False)
                self.wfile.write(f"data: {text}\n\n".encode("utf-8", "replace"))
                self.wfile.flush()
        if not failed:
            self.wfile.write(b"data: [DONE]\n\n")

    def _safe(self, reply: Events) -> Any:
        """The events; a fault in the midst of them becomes the last one."""
        try:
            yield from reply.items
        except Exception as error:  # the status has been sent, so this is the place to tell it
            yield _of(error).as_json()

    def _fault(self, error: RequestError) -> None:
        self.close_connection = True  # the rest of a bad request is not read
        with contextlib.suppress(ConnectionError, TimeoutError):
            self._json(error.as_json(), error.status)

    def _gone(self) -> bool:
        """Whether the client has closed the connection."""
        try:
            ready, _, _ = select.select([self.connection], [], [], 0)
            return bool(ready) and not self.connection.recv(1, socket.MSG_PEEK)
        except (OSError, ValueError):
            return True

    def _require_own_host(self) -> None:
        if not self.server.only_loopback:
            return
        name = urlsplit(f"//{self.headers.get('Host', '')}").hostname or ""
        if name != "localhost" and not is_loopback(name):
            raise RequestError(
                f"this server is not {name or 'named in the request'}", status=HTTPStatus.FORBIDDEN
            )

    def _log(self, outcome: str, start: float) -> None:
        wall_sec = time.perf_counter() - start
        # The path comes from outside: no line of it may look like another line of the log.
        print(f"{self.command} {self.path[:80]!r} {outcome} {wall_sec:.2f} s", file=sys.stderr)


def _of(error: Exception) -> RequestError:
    """A fault as the client is told it."""
    if isinstance(error, RequestError):
        return error
    if isinstance(error, UserError):
        return RequestError(str(error))
    said = f"{type(error).__name__}: {error}"
    return RequestError(said, status=HTTPStatus.INTERNAL_SERVER_ERROR)


def is_loopback(host: str) -> bool:
    """Whether an address is one of this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
