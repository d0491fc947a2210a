"""Calls of the agent on a device: send it over, give it a request, read its events.

with Call(device, python="python3", request={"verb": "prepare", ...}, place="copy") as call:
    for event in call.events(): ...
"""

from __future__ import annotations

import base64
import contextlib
import errno
import functools
import json
import os
import select
import subprocess
import tempfile
import threading
import time
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from runtimes.remote.agent import MARK
from runtimes.remote.faults import DeviceBusy, DeviceError, last_line
from runtimes.remote.ssh import Connection, end, quoted

_BEAT_SEC = 5.0
_LOOK_SEC = 0.2
_NOTHING = threading.Event()


class Cancelled(Exception):
    """Somebody else asked for the end: Ctrl-C while many devices are at work."""


class Call:
    """One run of the agent. As a context manager it leaves no ssh behind, and closing stdin tells
    the device to end what it does."""

    def __init__(
        self,
        device: Connection,
        python: str,
        request: Mapping[str, Any],
        *,
        doing: str,
        place: str,
        cancel: threading.Event = _NOTHING,
    ) -> None:
        self._device, self._doing, self._place, self._cancel = device, doing, place, cancel
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._last_beat = time.monotonic()
        self._process = device.start(_command(python, request), stderr=self._said)

    def __enter__(self) -> Call:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if kind is not None:
            self._wind_down()
        end(self._process)
        self._said.close()

    def send(self, block: bytes) -> bool:
        """Bytes to the agent's stdin; False when it does not listen any more: read its events."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(block)
            self._process.stdin.flush()
        except OSError:
            return False
        return True

    def events(self, *, heartbeat: bool = False) -> Iterator[dict[str, Any]]:
        """Events until the agent's end. A refusal becomes a `DeviceError`, and so does a connection
        that is lost."""
        for line in self._lines(heartbeat):
            if not line.startswith(MARK):
                continue
            event = json.loads(line[len(MARK) :])
            if event["event"] == "refused":
                raise _refusal(self._device.host, event, self._place)
            yield event
        if self._process.wait() != 0:
            raise self._broken()

    def last(self, **options: bool) -> dict[str, Any]:
        """The last event."""
        events = list(self.events(**options))
        if not events:
            raise self._broken()
        return events[-1]

    def _lines(self, heartbeat: bool) -> Iterator[str]:
        assert self._process.stdout is not None
        stream, kept = self._process.stdout, b""
        while True:
            if self._cancel.is_set():
                raise Cancelled
            if heartbeat and time.monotonic() - self._last_beat > _BEAT_SEC:
                self.send(b".")
                self._last_beat = time.monotonic()
            if not select.select([stream], [], [], _LOOK_SEC)[0]:
                continue
            block = os.read(stream.fileno(), 1 << 16)
            if not block:
                return
            *lines, kept = (kept + block).split(b"\n")
            yield from (line.decode("utf-8", "replace") for line in lines)

    def _wind_down(self) -> None:
        """Hang up and wait until the device has ended its work; ssh ends when the agent has."""
        if self._process.stdin is not None:
            with contextlib.suppress(OSError):
                self._process.stdin.close()
            self._process.stdin = None  # `communicate` would flush it
        with contextlib.suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            self._process.communicate(timeout=10)

    def _broken(self) -> DeviceError:
        self._said.seek(0)
        said = self._said.read().decode("utf-8", "replace")
        if self._process.returncode == 255 or self._process.returncode < 0 or not said.strip():
            return self._device.lost(said, self._doing, self._place)
        return DeviceError(
            f"{self._device.host} failed while {self._doing}: {last_line(said)}",
            f"try: ssh {self._device.host} python3 --version",
            place=self._place,
        )


def _command(python: str, request: Mapping[str, Any]) -> str:
    words = base64.b64encode(json.dumps(request).encode()).decode()
    return quoted([python, "-c", _source(), words])


@functools.cache
def _source() -> str:
    """The agent as one word that every shell passes on as it is."""
    text = Path(__file__).with_name("agent.py").read_bytes()
    packed = base64.b64encode(zlib.compress(text, 9)).decode()
    return f'import base64,zlib;exec(zlib.decompress(base64.b64decode("{packed}")))'


def _refusal(host: str, event: Mapping[str, Any], place: str) -> DeviceError:
    kind, text = event["kind"], event["text"]
    if kind == "os" and event["errno"] in (errno.ENOSPC, errno.EDQUOT):
        return full_disk(host, place)
    told: dict[str, Callable[[], DeviceError]] = {
        "disk": lambda: no_room(host, text, event["needed"], event["free"]),
        "busy": lambda: DeviceBusy(
            f"another smoke test is running on {host}", "wait until it is done", place=place
        ),
        "strange": lambda: DeviceError(
            f"{text} on {host} holds something else than a bundle",
            "choose another folder with --remote-dir, or empty it",
            place=place,
        ),
        "absent": lambda: DeviceError(
            f"there is no bundle in {text} on {host}", "leave out --no-copy", place=place
        ),
        "damaged": lambda: DeviceError(
            f"{text} arrived on {host} with another digest than SHA256SUMS says",
            "check the bundle here (python3 smoke_test.py), build it again if it is damaged, "
            "then try again",
            place=place,
        ),
    }
    found = told.get(kind)
    return found() if found else DeviceError(f"{host}: {text}", "mend that there", place=place)


def no_room(host: str, folder: str, needed: int, free: int) -> DeviceError:
    """Not enough disk, known before anything is copied."""
    return DeviceError(
        f"not enough disk on {host}: {needed / 1e6:.0f} MB needed, {free / 1e6:.0f} MB free "
        f"under {folder}",
        "free some space there, or choose another folder with --remote-dir",
        place="copy",
    )


def full_disk(host: str, place: str) -> DeviceError:
    """The disk ran full in the middle."""
    return DeviceError(
        f"no space left on {host}",
        "free some space there, or choose another folder with --remote-dir; "
        "what was copied stays there",
        place=place,
    )
