"""Run a command that ends with the process that started it, however that ends.

    python common/with_parent.py PARENT_PID COMMAND ...

A killed build cannot end its children, and one that writes on would write into the next build's
folder. On Linux the kernel ends them; elsewhere the command runs as it is.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


def with_parent(command: Sequence[object]) -> list[str]:
    """The command for `subprocess`, as a child of this process. The thread that starts it must wait
    for it: the kernel takes the end of that thread for the parent's."""
    words = list(map(str, command))
    if not sys.platform.startswith("linux"):
        return words
    # Isolated and without site: this is the standard library's alone, and takes milliseconds.
    return [sys.executable, "-I", "-S", str(Path(__file__)), str(os.getpid()), *words]


def end_with(parent: int) -> None:
    """Let the kernel end this process when `parent`, which started it, is gone."""
    if not sys.platform.startswith("linux"):
        return
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:  # gone before the kernel was told
        os._exit(1)


if __name__ == "__main__":
    end_with(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
