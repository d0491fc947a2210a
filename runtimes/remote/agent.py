"""What runs on a device for a remote smoke test: receives a bundle, runs its test, leaves nothing.

Sent whole over SSH by `runtimes/remote/call.py`; Python 3.8 or newer, the standard library alone.
The request is the first argument (JSON in base64); answers are lines on stdout that start with
`MARK`, so that whatever a login shell prints is told apart. Standard input carries a file's bytes
(`receive`) or is the lifeline (`run`): when it closes or falls silent, the test and everything that
it started is ended.
"""

from __future__ import annotations

import base64
import contextlib
import ctypes
import fcntl
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

MARK = "edgeforge-event "
SUMS, LOG = "SHA256SUMS", "log"
SPARE_BYTES = 32 << 20
BLOCK_BYTES = 1 << 20
SILENCE_SEC = 60.0  # without a byte of a file that is being sent
END_SEC = 3.0
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36

_talking = threading.Lock()
_stop = threading.Event()


class Refused(Exception):
    """Why the device does not do it: a kind for the other side, and words."""

    def __init__(self, kind: str, text: str, **facts: Any) -> None:
        super().__init__(text)
        self.kind, self.facts = kind, facts


def say(event: str, **facts: Any) -> None:
    """One event to the other side. Nobody there: everything here ends."""
    line = MARK + json.dumps({"event": event, **facts}) + "\n"
    try:
        with _talking:
            sys.stdout.write(line)
            sys.stdout.flush()
    except (OSError, ValueError):
        _stop.set()


# --------------------------------------------------------------------------------
# The bundle's folder


def place(request: dict[str, Any]) -> Path:
    """The bundle's folder; relative ones lie in the home folder."""
    folder = Path(request["folder"]).expanduser()
    return folder if folder.is_absolute() else Path.home() / folder


def partials(folder: Path) -> Path:
    """Where parts of files wait for the rest: beside the bundle, which holds whole files only."""
    return folder.with_name("." + folder.name + ".partial")


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """One at a time: tests side by side would also spoil each other's figures."""
    with (folder.parent / ".lock").open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise Refused("busy", "another smoke test is running on this device") from None
        yield


def prepare(request: dict[str, Any]) -> None:
    """Say which files are missing or differ, and how much of each is here already; make room."""
    folder, files = place(request), request["files"]
    refuse_strange(folder)
    rest = partials(folder)
    missing = {
        name: part_size(rest / digest, size)
        for name, (size, digest) in files.items()
        if not is_same(folder, name, size, digest)
    }
    needed = sum(files[name][0] - done for name, done in missing.items())
    existing = next(p for p in (folder, *folder.parents) if p.exists())
    free = shutil.disk_usage(str(existing)).free
    if needed + SPARE_BYTES > free:
        raise Refused("disk", str(existing), needed=needed + SPARE_BYTES, free=free)
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        rest.mkdir(exist_ok=True)
        wanted = {digest for _, digest in files.values()}
        for path in rest.iterdir():
            if path.name not in wanted and path.is_file():
                path.unlink()
        remove_strays(folder, set(files))
        (folder / SUMS).write_text(request["sums"], encoding="utf-8")
    say("prepared", folder=str(folder), missing=missing, partials=str(rest))


def refuse_strange(folder: Path) -> None:
    """Files are removed from this folder, so it must be a bundle's."""
    if not folder.exists() or (folder / SUMS).is_file():
        return
    if not folder.is_dir() or any(folder.iterdir()):
        raise Refused("strange", str(folder))


def is_same(folder: Path, name: str, size: int, digest: str) -> bool:
    path = folder / name
    if path.resolve() != folder.resolve() / name or not path.is_file():
        return False
    return path.stat().st_size == size and sha256_file(path) == digest


def part_size(path: Path, size: int) -> int:
    there = path.stat().st_size if path.is_file() else 0
    return there if there <= size else 0


def remove_strays(folder: Path, wanted: set[str]) -> None:
    """Files of an older bundle, and links; `log/` stays."""
    for base, folders, names in os.walk(str(folder), topdown=True):
        relative = Path(base).relative_to(folder)
        if relative == Path():
            folders[:] = [name for name in folders if name != LOG]
        links = [name for name in folders if (Path(base) / name).is_symlink()]
        for name in [*names, *links]:
            path = Path(base) / name
            if (relative / name).as_posix() not in wanted or path.is_symlink():
                path.unlink()
        folders[:] = [name for name in folders if name not in links]


def sha256_file(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(BLOCK_BYTES), b""):
            digest.update(block)
    return digest.hexdigest()


def receive(request: dict[str, Any]) -> None:
    """Take files from stdin, one after the other, each from where the last try stopped."""
    folder = place(request)
    rest = partials(folder)
    with locked(folder):
        for name, size, digest, start in request["files"]:
            part = rest / digest
            with part.open("r+b" if start else "wb") as stream:
                stream.truncate(start)
                stream.seek(start)
                take(stream, size - start)
                stream.flush()
                os.fsync(stream.fileno())
            if sha256_file(part) != digest:
                part.unlink()
                raise Refused("damaged", name)
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            part.replace(folder / name)
            say("received", name=name)
    say("done")


def take(stream: Any, count: int) -> None:
    while count:
        if not select.select([0], [], [], SILENCE_SEC)[0]:
            raise Refused("cut", f"nothing came for {SILENCE_SEC:.0f} s")
        block = os.read(0, min(count, BLOCK_BYTES))
        if not block:
            stream.flush()
            raise Refused("cut", "the connection ended")
        stream.write(block)
        count -= len(block)


# --------------------------------------------------------------------------------
# The test


def run(request: dict[str, Any]) -> None:
    """Run the bundle's test; its output and its JSON go to the other side. Ends early when that
    side is gone, after `timeout_sec`, or at a signal; whatever the test started is ended too."""
    folder = place(request)
    if not (folder / request["script"]).is_file():
        raise Refused("absent", str(folder))
    for sign in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(sign, lambda *_: _stop.set())
    adopt_orphans()
    with locked(folder), tempfile.TemporaryDirectory() as scratch:
        shutil.rmtree(str(partials(folder)), ignore_errors=True)
        report = Path(scratch) / "smoke.json"
        words = [sys.executable, "-B", str(folder / request["script"]), *request["arguments"]]
        start = time.monotonic()
        process = subprocess.Popen(
            [*words, "--json", str(report)],
            cwd=str(folder),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**os.environ, "PATH": request["path"], "PYTHONIOENCODING": "utf-8"},
            preexec_fn=die_with_us,
        )
        readers = [
            threading.Thread(target=forward, args=(name, pipe), daemon=True)
            for name, pipe in (("stdout", process.stdout), ("stderr", process.stderr))
        ]
        try:
            say("started", pid=process.pid)
            for reader in readers:
                reader.start()
            ended_by = watch(process, request["timeout_sec"], request["silence_sec"])
            sec = time.monotonic() - start
        finally:
            end_all(process)
        for reader in readers:
            reader.join(END_SEC)
        text = report.read_text(encoding="utf-8") if report.is_file() else None
    say("end", code=process.returncode, ended_by=ended_by, sec=sec, report=text)


def watch(process: Any, timeout_sec: float, silence_sec: float) -> str:
    """Wait for its end; empty when it ended by itself, else what ended the wait."""
    heard = start = time.monotonic()
    waiting = [0]
    while process.poll() is None:
        if select.select(waiting, [], [], 0.05)[0]:
            if not os.read(0, 4096):
                return "hung up"
            heard = time.monotonic()
        now = time.monotonic()
        if _stop.is_set():
            return "hung up"
        if now - heard > silence_sec:
            return "silence"
        if now - start > timeout_sec:
            return "timeout"
    return ""


def forward(name: str, pipe: Any) -> None:
    for line in iter(pipe.readline, b""):
        say("output", stream=name, text=line.decode("utf-8", "replace"))


def adopt_orphans() -> None:
    """What the test leaves behind becomes our child, so that it can be found and ended (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_us() -> None:
    """In the child: a session of its own, and its end when this process is killed outright."""
    os.setsid()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def end_all(process: Any) -> None:
    """End the test and everything that it started: asked first, then killed."""
    for sign in (signal.SIGTERM, signal.SIGKILL):
        deadline = time.monotonic() + END_SEC
        while time.monotonic() < deadline:
            living = descendants()
            if process.poll() is None:
                living.add(process.pid)
            if not living:
                return
            for pid in living:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, sign)
            time.sleep(0.05)
            reap(process)


def reap(process: Any) -> None:
    """Collect adopted children that ended; the test itself is its `Popen`'s."""
    for pid in descendants(zombies=True):
        if pid != process.pid:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, os.WNOHANG)


def descendants(zombies: bool = False) -> set[int]:
    """Processes below this one, from /proc; none where there is no /proc."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError):
            state, parent = (path / "stat").read_text().rpartition(")")[2].split()[:2]
            if zombies or state != "Z":
                parents[int(path.name)] = int(parent)
    found = {os.getpid()}
    while True:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        if not more:
            return found - {os.getpid()}
        found |= more


def main() -> None:
    request = json.loads(base64.b64decode(sys.argv[1]))
    try:
        {"prepare": prepare, "receive": receive, "run": run}[request["verb"]](request)
    except Refused as error:
        say("refused", kind=error.kind, text=str(error), **error.facts)
    except OSError as error:
        say("refused", kind="os", errno=error.errno, text=str(error))


if __name__ == "__main__":
    main()
