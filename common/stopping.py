"""Let a terminated program tidy up: a signal that asks it to end becomes `SystemExit`.

with tidy_when_ended():
    ...   # `finally` and context managers run on SIGTERM and SIGHUP, as they do on Ctrl-C
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

_SIGNALS = tuple(getattr(signal, n) for n in ("SIGTERM", "SIGHUP") if hasattr(signal, n))
_KILLED = 128  # a shell's exit code for a program that a signal ended: 128 and its number
_AGAIN_SEC = 0.05


class Ended(SystemExit):
    """A signal asked the program to end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(_KILLED + number)


@contextlib.contextmanager
def tidy_when_ended() -> Iterator[None]:
    """For the duration of the block; in the main thread only, elsewhere it changes nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _end) for number in _SIGNALS}
    hook = sys.unraisablehook
    sys.unraisablehook = functools.partial(_hear_again, hook)
    try:
        yield
    finally:
        sys.unraisablehook = hook
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> None:
    for one in _SIGNALS:  # the second signal must not interrupt the tidying
        signal.signal(one, signal.SIG_IGN)
    raise Ended(number)


def _hear_again(hook: Callable[[Any], object], unraisable: Any) -> None:
    """A signal that came while C code called back (llama.cpp's log) would be lost, since nothing
    can be raised through C: it is sent once more."""
    error = unraisable.exc_value
    if isinstance(error, Ended):
        number = error.number
        for one in _SIGNALS:
            signal.signal(one, _end)
    elif isinstance(error, KeyboardInterrupt):
        number = signal.SIGINT
    else:
        hook(unraisable)
        return
    again = threading.Timer(_AGAIN_SEC, os.kill, (os.getpid(), number))
    again.daemon = True
    again.start()
