"""Run the real command line under `watch/sitecustomize.py`, and read what it noted.

run = watched(["build", ...], cwd=folder, log=tmp / "log")
run.written_outside(tmp / "out"), run.shells(), run.foreign_code()
"""

from __future__ import annotations

import contextlib
import ipaddress
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
_WATCH = Path(__file__).parent / "watch"
_END = b"the end\n"
_COMMAND = "from toolchain.__main__ import main; main()"
_DEVICES = ("/dev/null", "/dev/tty", "/dev/shm", "/proc")
OF_TORCH = "torchinductor_"  # an empty folder that torch makes when it is imported
_SHELLS = re.compile(r"(^|/)(sh|bash|dash|zsh|cmd|env)(\.exe)?$")
# Kernels, and the page of an adapter.
_OWN_TEMPLATES = ("/torch/_inductor/codegen/common.py", "/huggingface_hub/repocard.py")
_DANGEROUS = ("posix", "nt", "os", "subprocess", "sys", "shutil", "runpy", "builtins.e")


@dataclass(frozen=True)
class Watched:
    """A finished command and the rows that its processes left."""

    done: subprocess.CompletedProcess[str]
    rows: tuple[tuple[str, list[str], list[str]], ...]

    def events(self, *names: str) -> Iterator[tuple[list[str], list[str]]]:
        """Arguments and command line of these events."""
        for event, args, words in self.rows:
            if event in names:
                yield args, words

    def written_outside(self, *allowed: Path) -> set[str]:
        """What was written, made, moved or removed anywhere else."""
        places = (*map(str, allowed), *_DEVICES)
        paths = {
            path
            for event, args, _ in self.rows
            if event == "open" or event.startswith(("os.m", "os.r", "os.l", "os.t", "shutil."))
            for path in args[-1:]
        }
        return {
            path
            for path in paths
            if not path.startswith(places) and not Path(path).name.startswith(OF_TORCH)
        }

    def shells(self) -> list[list[str]]:
        """Commands that a shell would take apart."""
        started = self.events("subprocess.Popen", "os.exec", "os.posix_spawn", "os.spawn")
        found = [args for args, _ in started if _SHELLS.search(args[0].strip("'\""))]
        return [*found, *(args for args, _ in self.events("os.system"))]

    def foreign_code(self) -> set[str]:
        """Files whose code was run though they belong to neither Python, packages nor this project;
        templates outside of the process that renders them, but those that packages bring along."""
        return {
            args[0]
            for args, words in self.events("exec")
            if args[0] != "<template>"
            or not (args[1].endswith(_OWN_TEMPLATES) or "toolchain.data.template_process" in words)
        }

    def far_connections(self) -> list[str]:
        """Connections to anything but this machine."""
        told = [args[-1] for args, _ in self.events("socket.connect")]
        told += [args[0] for args, _ in self.events("socket.getaddrinfo")]
        return [one for one in told if not _is_near(one)]

    def dangerous_pickles(self) -> list[list[str]]:
        """Objects that a pickle named and that can do more than hold data."""
        named = (args for args, _ in self.events("pickle.find_class"))
        return [
            args for args in named if ".".join(a.strip("'") for a in args).startswith(_DANGEROUS)
        ]

    def libraries_from(self, *places: Path) -> list[str]:
        """Shared libraries loaded from these folders."""
        loaded = [args[0] for args, _ in self.events("ctypes.dlopen")]
        return [one for one in loaded if any(str(place) in one for place in places)]


def watched(
    words: Sequence[object],
    *,
    cwd: Path,
    scratch: Path,
    home: Path | None = None,
    stdin: str = "",
    **variables: str,
) -> Watched:
    """Run `edgeforge WORDS` in `cwd`; temporary files and caches go into `scratch`."""
    log, temporary = scratch / "watch.pipe", scratch / "tmp"
    temporary.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join((str(ROOT), str(_WATCH))),
        "PYTHONDONTWRITEBYTECODE": "1",
        "WATCH_LOG": str(log),
        "WATCH_ROOT": str(ROOT),
        "TMPDIR": str(temporary),
        "HOME": str(home or scratch / "home"),
        **variables,
    }
    with _reader(log) as lines:
        done = subprocess.run(
            [sys.executable, "-P", "-c", _COMMAND, *map(str, words)],
            cwd=cwd,
            env=environment,
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=3000,
        )
    return Watched(done, tuple((e, a, w) for e, a, w in map(json.loads, lines)))


@contextlib.contextmanager
def _reader(pipe: Path) -> Iterator[list[bytes]]:
    """The lines that are written into a pipe within the block, once it is over."""
    os.mkfifo(pipe)
    stream = os.open(pipe, os.O_RDWR)  # both ends are open, so nobody waits for anybody
    lines: list[bytes] = []

    def read() -> None:
        kept = b""
        while not kept.endswith(_END):
            kept += os.read(stream, 1 << 16)
        lines.extend(kept[: -len(_END)].splitlines())

    thread = threading.Thread(target=read)
    thread.start()
    try:
        yield lines
    finally:
        os.write(stream, _END)
        thread.join()
        os.close(stream)
        pipe.unlink()


def _is_near(told: str) -> bool:
    if told in ("None", "''") or told.startswith(("'/", "b'/", "'\\x00")):
        return True
    found = re.match(r"\(?b?'([^']*)'", told)
    if found is None:
        return False
    try:
        return ipaddress.ip_address(found[1]).is_loopback
    except ValueError:
        return found[1] == "localhost"
