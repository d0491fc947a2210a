"""One request at a time, in the order in which they came; those who leave lose their turn."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from http import HTTPStatus

from toolchain.serve.errors import Gone, RequestError, stopping

_LOOK_SEC = 0.1


class Turns:
    """A queue for the model, which answers one request at a time."""

    def __init__(self, most_waiting: int = 64) -> None:
        self._most_waiting = most_waiting
        self._line: deque[object] = deque()
        self._changed = threading.Condition()
        self.closing = threading.Event()

    @property
    def waiting(self) -> int:
        """How many wait behind the one that is answered."""
        return max(0, len(self._line) - 1)

    @property
    def busy(self) -> bool:
        """Whether one is being answered."""
        return bool(self._line)

    @contextlib.contextmanager
    def take(self, gone: Callable[[], bool]) -> Iterator[None]:
        """Wait for the turn and have it. Raises `Gone` when the client has left, `RequestError`
        when too many wait or the server is stopping."""
        ticket = object()
        with self._changed:
            if len(self._line) > self._most_waiting:
                raise RequestError(
                    f"{self._most_waiting} requests are waiting already; try again later",
                    status=HTTPStatus.SERVICE_UNAVAILABLE,
                )
            self._line.append(ticket)
        try:
            self._wait(ticket, gone)
            yield
        finally:
            with self._changed:
                self._line.remove(ticket)
                self._changed.notify_all()

    def close(self, timeout_sec: float) -> bool:
        """Let nobody in any more and wait for the one inside; whether it has come out."""
        self.closing.set()
        until = time.monotonic() + timeout_sec
        with self._changed:
            return self._changed.wait_for(lambda: not self._line, until - time.monotonic())

    def _wait(self, ticket: object, gone: Callable[[], bool]) -> None:
        with self._changed:
            while True:
                if self.closing.is_set():
                    raise stopping()
                if self._line[0] is ticket:
                    return
                if gone():
                    raise Gone
                self._changed.wait(_LOOK_SEC)
