"""What a build runs out of is one clear error; what was finished stays, and the next run goes on.

Each case disturbs a run (a full disk at a seeded moment, a limit of the process, a signal), looks
at what it said and left, and runs the same command again without the disturbance.
"""

from __future__ import annotations

import functools
import random
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path

import limits
import pytest
from going_on import require_going_on, require_one_error, require_tidy
from journeys import Proven
from moments import PATIENT_SEC, Calm, Moment, begin, caught, chosen, ended_by, temporary_of
from processes import left_of

_LIGHT = ("pack", "unpack")
_HEAVY = ("gguf", "train", "onnx", "encoder", "distill", "teacher-cache", "search")
_STOPPED = "stopped; finished stages are kept, run the same command to go on"
# The process that watches waits a moment before it hands on what it alone was sent.
_HANDED_ON_SEC = 2.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT)
# Lacks of the process: name → what sets it, the least, and the most that seeded steps go to.
_LIMITS: dict[str, tuple[Callable[[int], None], int, int]] = {
    "file size": (limits.file_size, 1 << 10, 1 << 18),
    "open files": (limits.handles, 1, 40),
    "memory": (limits.memory, 1 << 16, 1 << 28),
}

pytestmark = pytest.mark.timeout(7000)


def steps(whole: bool, name: str, most: int, quick: str = "unpack") -> int:
    """How many cases: in the quick part one of a light command."""
    return most if whole else int(name == quick)


@pytest.mark.parametrize("kind", _LIMITS)
@pytest.mark.parametrize("name", [*_LIGHT, *_HEAVY])
def test_a_limit_of_the_process(
    kind: str,
    name: str,
    calm: Callable[[str], Calm],
    whole: bool,
    tmp_path: Path,
    proven: Proven,
) -> None:
    count = steps(whole, name, 4)
    if not count:
        pytest.skip("in the whole suite")
    start, chance = time.monotonic(), random.Random(f"{kind} {name}")
    limit, least, most = _LIMITS[kind]
    refused = 0
    for number in range(count):
        step = number and (number + chance.random()) / count
        value = round(least * (most / least) ** step)
        out = tmp_path / str(number)
        out.mkdir()
        case = (name, kind, value)
        running = begin(calm(name).journey, out, before=functools.partial(limit, value))
        done = running.wait(PATIENT_SEC)
        assert not left_of(running.pid), case
        if done.returncode:  # a large limit may be enough
            require_one_error(done.returncode, done.stderr, case)
            refused += 1
            if " crashed on " not in done.stderr:  # an engine without memory ends all at once
                require_tidy(out, case)
        require_going_on(calm(name), out, case)
    assert refused
    unit = f"runs, {refused} refused"
    proven("2 resources", f"{kind}: {name}", count, unit, time.monotonic() - start)


@pytest.mark.parametrize("name", [*_LIGHT, *_HEAVY])
def test_the_disk_fills_up(
    name: str, calm: Callable[[str], Calm], whole: bool, tmp_path: Path, proven: Proven
) -> None:
    if not (count := steps(whole, name, 6)):
        pytest.skip("in the whole suite")
    start, chance = time.monotonic(), random.Random(name)
    size = sum(p.stat().st_size for p in calm(name).out.rglob("*") if p.is_file())
    refused = 0
    with limits.small_disk(tmp_path / "disk", 3 * size + (64 << 20)) as disk:
        for moment, fraction in chosen(calm(name), count, seed=1, whole=True):
            out = disk / "out"
            leave = chance.choice([0, 1 << 12, 1 << 15, 1 << 18])
            case = (name, moment.stage, round(fraction, 2), leave)
            running = caught(calm(name), moment, fraction / 2, out)
            ballast = limits.fill(disk, leave)
            done = running.wait(PATIENT_SEC)
            assert not left_of(running.pid), case
            if done.returncode:
                require_one_error(done.returncode, done.stderr, case)
                refused += 1
            require_tidy(out, case)
            ballast.unlink()
            require_going_on(calm(name), out, case)
            shutil.rmtree(out)
    assert refused
    unit = f"runs, {refused} refused"
    proven("2 resources", f"full disk: {name}", count, unit, time.monotonic() - start)


@pytest.mark.parametrize("number", _SIGNALS, ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("name", [*_LIGHT, *_HEAVY])
def test_a_signal(
    name: str,
    number: int,
    calm: Callable[[str], Calm],
    whole: bool,
    tmp_path: Path,
    proven: Proven,
) -> None:
    if not (count := steps(whole, name, 4, quick="pack")):
        pytest.skip("in the whole suite")
    start = time.monotonic()
    long = calm(name).sec > _HANDED_ON_SEC
    for at, (moment, fraction) in enumerate(chosen(calm(name), count, seed=number, whole=True)):
        alone = long and at % 2 == 1
        signal_and_go_on(calm(name), moment, fraction, tmp_path / str(at), number, alone=alone)
    proven(
        "2 resources",
        f"{signal.Signals(number).name}: {name}",
        count,
        "signals",
        time.monotonic() - start,
    )


@pytest.mark.parametrize("name", [*_LIGHT, *_HEAVY])
def test_a_folder_that_cannot_be_written(
    name: str, calm: Callable[[str], Calm], whole: bool, tmp_path: Path, proven: Proven
) -> None:
    if not steps(whole, name, 1):
        pytest.skip("in the whole suite")
    out = tmp_path / "out"
    out.mkdir()
    journey = calm(name).journey
    out.chmod(0o555)
    running = begin(journey, out, before=limits.no_rights)
    done = running.wait(PATIENT_SEC)
    require_one_error(done.returncode, done.stderr, name)
    assert "permission denied" in done.stderr and str(out) in done.stderr
    assert list(out.iterdir()) == []
    out.chmod(0o755)
    proven("2 resources", f"no permission: {name}", 1, "errors")
    with limits.small_disk(tmp_path / "disk", 1 << 28) as disk:
        (disk / "out").mkdir()
        temporary_of(disk / "out").mkdir()
        limits.remount(disk, "ro")
        done = begin(journey, disk / "out", environment={"TMPDIR": str(tmp_path)}).wait(PATIENT_SEC)
        require_one_error(done.returncode, done.stderr, name)
        assert "read-only" in done.stderr
        limits.remount(disk, "rw")
        assert list((disk / "out").iterdir()) == []
    proven("2 resources", f"read-only folder: {name}", 1, "errors")


def signal_and_go_on(
    calm: Calm, moment: Moment, fraction: float, out: Path, number: int, *, alone: bool
) -> None:
    """Send a signal to a run, or to its first process alone, and run it again."""
    case = (moment.stage, round(fraction, 2), "alone" if alone else "all")
    done = ended_by(number, calm, moment, fraction, out, alone=alone)
    assert "Traceback" not in done.stderr, (case, done.stderr)
    assert done.stderr.splitlines()[-1] == _STOPPED, (case, done.stderr)
    require_tidy(out, case)
    require_going_on(calm, out, case)
