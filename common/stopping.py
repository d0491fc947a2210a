"""Let a terminated program tidy up: a signal that asks it to end becomes `SystemExit`.

with tidy_when_ended():
    ...   # `finally` and context managers run on SIGTERM and SIGHUP, as they do on Ctrl-C
"""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

_SIGNALS = tuple(getattr(signal, n) for n in ("SIGTERM", "SIGHUP") if hasattr(signal, n))
_KILLED = 128  # a shell's exit code for a program that a signal ended: 128 and its number


class Ended(SystemExit):
    """A signal asked the program to end."""


@contextlib.contextmanager
def tidy_when_ended() -> Iterator[None]:
    """For the duration of the block; in the main thread only, elsewhere it changes nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, _end) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _end(number: int, _frame: FrameType | None) -> None:
    for one in _SIGNALS:  # the second signal must not interrupt the tidying
        signal.signal(one, signal.SIG_IGN)
    raise Ended(_KILLED + number)
