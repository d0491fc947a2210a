"""Processes of a session, as the kernel lists them."""

from __future__ import annotations

import signal
import time
from pathlib import Path

_GRACE_SEC = 20.0
_POLL_SEC = 0.02


def alive_in(session: int) -> dict[int, str]:
    """Processes of the session that run, with their command lines."""
    found = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            fields = (path / "stat").read_text().rpartition(")")[2].split()
            if int(fields[3]) == session and fields[0] not in ("Z", "X"):
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ")
                found[int(path.name)] = command.decode("utf-8", "replace")
        except (OSError, ValueError):  # it ended meanwhile
            continue
    return found


def handles_its_end(watching: int) -> bool:
    """Whether the process that this one watches has a handler of its own for SIGTERM: it has come
    to its own code, and not yet to its end."""
    try:
        children = Path(f"/proc/{watching}/task/{watching}/children").read_text().split()
    except OSError:
        return False
    return any(map(_handles_sigterm, children))


def _handles_sigterm(process: str) -> bool:
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return False
    caught = next((line.split()[1] for line in lines if line.startswith("SigCgt:")), "0")
    return bool(int(caught, 16) >> (signal.SIGTERM - 1) & 1)


def left_of(session: int) -> dict[int, str]:
    """Processes of the session that still run after a while."""
    until = time.monotonic() + _GRACE_SEC
    while (found := alive_in(session)) and time.monotonic() < until:
        time.sleep(_POLL_SEC)
    return found
