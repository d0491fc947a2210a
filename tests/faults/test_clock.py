"""A clock that is set back: what was written before is of the future, and time runs twice."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import ROOT
from going_on import require_going_on
from journeys import Proven, contents, left_behind
from moments import Calm, begin, prefilled, reach, temporary_of

pytestmark = pytest.mark.timeout(3600)  # where other work takes the cores

# A library before the C library: real time is less than it was, after so many questions.
_SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long back_by(void) {
    static long asked = 0;
    const char *sec = getenv("CLOCK_BACK_SEC"), *after = getenv("CLOCK_BACK_AFTER");
    return sec && asked++ >= (after ? atol(after) : 0) ? atol(sec) : 0;
}

int clock_gettime(clockid_t which, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int code = real(which, now);
    if (!code && (which == CLOCK_REALTIME || which == CLOCK_REALTIME_COARSE))
        now->tv_sec -= back_by();
    return code;
}

int gettimeofday(struct timeval *now, void *zone) {
    struct timespec found;
    (void)zone;
    int code = clock_gettime(CLOCK_REALTIME, &found);
    now->tv_sec = found.tv_sec;
    now->tv_usec = found.tv_nsec / 1000;
    return code;
}

time_t time(time_t *place) {
    struct timespec found;
    clock_gettime(CLOCK_REALTIME, &found);
    if (place) *place = found.tv_sec;
    return found.tv_sec;
}
"""
_DAY_SEC = 86400
_READ = "import time; print(*[time.time() for _ in range(400)])"


@pytest.fixture(scope="module")
def clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None or not sys.platform.startswith("linux"):
        pytest.skip("a C compiler on Linux is needed")
    folder = tmp_path_factory.mktemp("clock")
    (folder / "clock.c").write_text(_SOURCE)
    command = [compiler, "-shared", "-fPIC", "-o", folder / "clock.so", folder / "clock.c", "-ldl"]
    subprocess.run(command, check=True)
    return folder / "clock.so"


def with_clock(clock: Path, words: list[object], temporary: Path, after: int) -> tuple[int, str]:
    """Run a Python command whose clock goes back a day after so many questions."""
    own = {"LD_PRELOAD": str(clock), "CLOCK_BACK_SEC": str(_DAY_SEC), "TMPDIR": str(temporary)}
    done = subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=ROOT,
        env={**os.environ, **own, "CLOCK_BACK_AFTER": str(after), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    return done.returncode, done.stdout + done.stderr


def test_the_clock_itself(clock: Path, tmp_path: Path) -> None:
    code, said = with_clock(clock, ["-c", _READ], tmp_path, after=200)
    times = [float(word) for word in said.split()]
    back = [one - other for one, other in itertools.pairwise(times) if other < one]
    assert code == 0 and len(back) == 1 and back[0] == pytest.approx(_DAY_SEC, abs=60)


@pytest.mark.parametrize("after", [0, 40], ids=["between runs", "in the run"])
@pytest.mark.parametrize("name", ["unpack", "gguf"])
def test_a_run_goes_on_after_it(
    name: str,
    after: int,
    clock: Path,
    calm: Callable[[str], Calm],
    whole: bool,
    tmp_path: Path,
    proven: Proven,
) -> None:
    if name == "gguf" and not whole:
        pytest.skip("in the whole suite")
    quiet, out = calm(name), tmp_path / "out"
    moment = next((one for one in quiet.moments if one.stage == "quantize"), quiet.moments[0])
    prefilled(quiet, moment, out)
    killed = begin(quiet.journey, out)
    reach(killed, moment, 0.5)
    killed.signal_all(9)
    killed.wait()
    words = ["-m", "toolchain", *quiet.journey.words(out)]
    code, said = with_clock(clock, words, temporary_of(out), after)
    assert code == 0, said
    assert contents(quiet.journey.result(out)) == quiet.contents
    assert left_behind(out) == []
    code, said = with_clock(clock, words, temporary_of(out), 0)
    assert code == 0, said
    assert name != "gguf" or "up to date" in said
    require_going_on(quiet, out, after)  # and with the right clock again
    proven("2 resources", f"clock set back: {name}", 2, "runs")
