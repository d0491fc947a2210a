"""Writes down what every Python process of a command does to the machine, as it does it.

A process that finds this folder on its PYTHONPATH imports it before anything else. `WATCH_LOG`
names the pipe that gets one JSON row for each event: files opened for writing, made, moved or
removed; programs and shells started; connections; libraries loaded; code run that lies in a file.
"""

from __future__ import annotations

import json
import os
import sys
import sysconfig
from types import FrameType
from typing import Any

_PATHS = frozenset((
    "os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate",
    "os.chmod", "os.chown", "shutil.copyfile", "shutil.move", "shutil.rmtree",
))  # fmt: skip
_NAMES = frozenset((
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "ctypes.dlopen",
    "pickle.find_class", "socket.connect", "socket.getaddrinfo",
))  # fmt: skip
_MOST, _MOST_BYTES = 600, 4000  # what a pipe takes at once
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# Where code of the interpreter and of installed packages lies.
_OWN = tuple({sys.prefix, sys.base_prefix, *sysconfig.get_paths().values()})


def _begin(log: str) -> None:
    stream = os.open(log, os.O_WRONLY)
    root = os.environ["WATCH_ROOT"]

    def note(event: str, args: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = args
            if isinstance(path, int) or not flags & _WRITES:
                return
            row = [_place(path)]
        elif event in _PATHS:
            folder = args[-1] if event != "os.truncate" else -1  # what a path is relative to
            row = [_place(part, folder) for part in args if isinstance(part, str | bytes)]
        elif event in _NAMES:
            row = [repr(part)[:_MOST] for part in args[:2]]
        elif event == "exec":
            file = args[0].co_filename
            if file.startswith((*_OWN, root)) or (file[:1] == "<" and file != "<template>"):
                return
            row = [file, _asked_by()] if file == "<template>" else [file]
        else:
            return
        words = [word[:80] for word in sys.orig_argv[:4]]
        row = [part[-_MOST:] for part in row]
        os.write(stream, json.dumps([event, row, words]).encode()[:_MOST_BYTES] + b"\n")

    sys.addaudithook(note)


def _asked_by() -> str:
    """The file whose code has Jinja compile a template."""
    frame: FrameType | None = sys._getframe(2)
    while frame and f"{os.sep}jinja2{os.sep}" in frame.f_code.co_filename:
        frame = frame.f_back
    return frame.f_code.co_filename if frame else ""


def _place(path: str | bytes | os.PathLike[str], folder: object = -1) -> str:
    name = os.fsdecode(path)
    if isinstance(folder, int) and folder >= 0:  # as shutil removes whole trees
        name = os.path.join(os.readlink(f"/proc/self/fd/{folder}"), name)  # noqa: PTH115, PTH118
    return os.path.abspath(name)  # noqa: PTH100 (no link may be followed)


if "WATCH_LOG" in os.environ:
    _begin(os.environ["WATCH_LOG"])
