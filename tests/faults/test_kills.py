"""A killed build goes on to the bytes of an undisturbed one, and nothing of it stays behind.

Each case kills a run at a seeded moment of a stage (all its processes at once, or only the first,
whose children must end by themselves), and runs the same command again.
"""

from __future__ import annotations

import functools
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from going_on import require_going_on
from journeys import Proven
from moments import Calm, chosen, ended_by

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
    moments = chosen(calm(name), count, seed=len(name), whole=whole)
    for number, (moment, fraction) in enumerate(moments):
        out, alone = tmp_path / str(number), number % 2 == 1
        scratch = whole and number % _FROM_SCRATCH == 0
        kill = functools.partial(ended_by, signal.SIGKILL, alone=alone, scratch=scratch)
        said = kill(calm(name), moment, fraction, out).stderr
        case = f"{fraction:.2f} of {moment.stage or 'the start'}, {'alone' if alone else 'all'}"
        require_going_on(calm(name), out, (case, said))
    proven("1 crashes", f"SIGKILL: {name}", count, "kills", time.monotonic() - start)
