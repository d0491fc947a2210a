"""A killed build goes on to the bytes of an undisturbed one, and nothing of it stays behind.

Each case kills a run at a seeded moment of a stage (all its processes at once, or only the first,
whose children must end by themselves), and runs the same command again.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import Running
from going_on import require_going_on
from journeys import Proven
from moments import PATIENT_SEC, Calm, caught, chosen
from processes import left_of

# How many kills each journey gets: 50.
_WHOLE = {
    "gguf": 8, "train": 12, "distill": 7, "mixed": 4, "onnx": 6, "encoder": 4, "search": 4,
    "teacher-cache": 2, "pack": 2, "unpack": 1,
}  # fmt: skip
_QUICK = {"gguf": 2, "unpack": 1}
# Every so many runs of the whole begin with nothing, the others with what was finished then.
_FROM_SCRATCH = 4

pytestmark = pytest.mark.timeout(7000)  # where other work takes the cores


@pytest.mark.parametrize("name", _WHOLE)
def test_a_killed_run_goes_on(
    name: str, calm: Callable[[str], Calm], whole: bool, tmp_path: Path, proven: Proven
) -> None:
    count = (_WHOLE if whole else _QUICK).get(name, 0)
    if not count:
        pytest.skip("in the whole suite")
    start = time.monotonic()
    killed = 0
    moments = chosen(calm(name), count, seed=len(name), whole=whole)
    for number, (moment, fraction) in enumerate(moments):
        scratch = whole and number % _FROM_SCRATCH == 0
        running = caught(calm(name), moment, fraction, tmp_path / str(number), scratch=scratch)
        alone = number % 2 == 1
        case = f"{fraction:.2f} of {moment.stage or 'the start'}, {'alone' if alone else 'all'}"
        killed += kill_and_go_on(running, calm(name), tmp_path / str(number), alone, case)
    assert killed == count
    proven("1 crashes", f"SIGKILL: {name}", killed, "kills", time.monotonic() - start)


def kill_and_go_on(running: Running, calm: Calm, out: Path, alone: bool, case: str) -> bool:
    """Kill a run, with its children or alone, and run it again; whether it was killed."""
    running.signal(signal.SIGKILL) if alone else running.signal_all(signal.SIGKILL)
    left = left_of(running.pid)
    running.signal_all(signal.SIGKILL)
    said = running.wait(PATIENT_SEC)
    assert not left, (case, left)
    require_going_on(calm, out, (case, said.stderr))
    return said.returncode == -signal.SIGKILL
