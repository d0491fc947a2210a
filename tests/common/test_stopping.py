"""Signals end a program tidily, wherever they find it."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# C code calls back, and the signal comes while Python's code answers it.
CALLED_BACK = """\
import ctypes, signal, sys, time
from common.stopping import Ended, tidy_when_ended
number = int(sys.argv[1])
seen = []

@ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p)
def compare(one, other):
    if not seen:
        seen.append(1)
        signal.raise_signal(number)
    return 0

try:
    with tidy_when_ended():
        ctypes.CDLL(None).qsort((ctypes.c_int * 4)(), 4, 4, compare)
        print("C is done", flush=True)
        time.sleep(60)
except (Ended, KeyboardInterrupt) as end:
    print("tidied", type(end).__name__)
"""


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGTERM, "Ended"), (signal.SIGINT, "KeyboardInterrupt")]
)
def test_a_signal_during_a_callback_is_not_lost(number: int, name: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CALLED_BACK, str(int(number))],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=50,
    )
    assert done.stdout.splitlines() == ["C is done", f"tidied {name}"]
    assert done.stderr == ""
