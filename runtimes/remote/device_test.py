"""Run a bundle's smoke test on a device: its words as they come, its JSON at the end.

    found = run_device_test(device, facts, folder, python="python3", arguments=["--quick"])

The connection is the test's lifeline: when this side ends or goes away, the device ends the test
and all that it started (`runtimes/remote/agent.py`).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from runtimes.remote.call import Call
from runtimes.remote.faults import DeviceError, last_line
from runtimes.remote.ssh import Connection

if TYPE_CHECKING:
    from runtimes.remote.preflight import DeviceFacts

SCRIPT = "smoke_test.py"
# The device hears from us every 5 s; after this long without, it ends the test.
SILENCE_SEC = 30.0
_CANNOT_RUN = 2
_NEVER = threading.Event()


@dataclass(frozen=True)
class DeviceTest:
    """What `smoke_test.py --json` wrote, the table that it printed, and how long it ran there."""

    data: dict[str, Any]
    table: str
    sec: float


def run_device_test(
    device: Connection,
    facts: DeviceFacts,
    folder: str,
    *,
    python: str,
    arguments: Sequence[str] = (),
    timeout_sec: float,
    show: Callable[[str], None] = lambda line: None,
    cancel: threading.Event = _NEVER,
) -> DeviceTest:
    """Run it to its end; a failed check is a result. Raises `DeviceError` when there is none: it
    could not run, died, took too long, or the connection was lost."""
    request = {
        "verb": "run",
        "folder": folder,
        "script": SCRIPT,
        "arguments": list(arguments),
        "path": facts.path,
        "timeout_sec": timeout_sec,
        "silence_sec": SILENCE_SEC,
    }
    printed: dict[str, list[str]] = {"stdout": [], "stderr": []}
    last: dict[str, Any] = {}
    doing = "the smoke test ran"
    with Call(device, python, request, doing=doing, place="run", cancel=cancel) as call:
        for event in call.events(heartbeat=True):
            last = event
            if event["event"] == "output":
                printed[event["stream"]].append(event["text"])
                show(event["text"].rstrip("\n"))
        if last.get("event") != "end":
            raise device.lost("", doing, "run")
    if last["report"] is None or last["ended_by"]:
        raise _no_result(device.host, last, "".join(printed["stderr"]), timeout_sec)
    try:
        data = json.loads(last["report"])
        assert {"verdict", "checks", "machine", "engine", "threads"} <= set(data)
    except (ValueError, TypeError, AssertionError):
        raise _error(
            f"the smoke test on {device.host} left a result that cannot be read",
            "build the bundle again, then try again",
        ) from None
    return DeviceTest(data, "".join(printed["stdout"]), last["sec"])


def _no_result(host: str, last: dict[str, Any], said: str, timeout_sec: float) -> DeviceError:
    reason = last_line(said, "it said nothing")
    if last["ended_by"] == "timeout":
        return _error(
            f"the smoke test on {host} did not end within {timeout_sec:.0f} s and was stopped",
            "look at the device's load and free memory, or allow more: --timeout SEC",
        )
    if last["ended_by"]:
        return _error(
            f"the smoke test on {host} was stopped there ({last['ended_by']})",
            "run the same command again",
        )
    if last["code"] == _CANNOT_RUN:
        return _error(f"{host}: {reason}", "install the engine it names there, or build again")
    how = f"signal {-last['code']}" if last["code"] < 0 else f"code {last['code']}"
    return _error(
        f"the smoke test on {host} died ({how}): {reason}",
        "the engine may be short of memory or refuse this model; see dmesg there",
    )


def _error(problem: str, mend: str) -> DeviceError:
    return DeviceError(problem, mend, place="run")
