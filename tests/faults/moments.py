"""An undisturbed run of a journey, and the moments at which it can be disturbed.

calm = undisturbed(journey, folder)
running = caught(calm, calm.moments[3], 0.4, out)
done = ended_by(signal.SIGKILL, calm, calm.moments[3], 0.4, out, alone=True)
"""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from command_line import Running, started
from journeys import Journey, contents, left_behind
from processes import handles_its_end, left_of

PATIENT_SEC = 3000.0  # of a command, where other work takes the cores
_POLL_SEC = 0.005
_TRIES, _EARLIER = 12, 0.6
_BEGINS = " …"
# The exit code of a run that such a signal has ended.
_CODES = {signal.SIGKILL: -signal.SIGKILL, signal.SIGTERM: 143, signal.SIGINT: 130}


@dataclass(frozen=True)
class Moment:
    """From when a stage said that it begins (the `count`th of that name, or the start of the
    command where `stage` is empty) for as long as it took. `finished` were finished then."""

    stage: str
    count: int
    sec: float
    finished: tuple[str, ...] = ()


@dataclass(frozen=True)
class Calm:
    """What an undisturbed run left, and its moments in order."""

    journey: Journey
    out: Path
    contents: dict[str, str]
    moments: tuple[Moment, ...]
    sec: float


def undisturbed(journey: Journey, folder: Path) -> Calm:
    """Run the journey in the folder to its end."""
    out = folder / "out"
    out.mkdir(parents=True)
    running = begin(journey, out)
    start = time.monotonic()
    begins: list[tuple[str, float, tuple[str, ...]]] = [("", start, ())]
    while running.runs:
        stages = said_stages(running.said)
        if len(stages) >= len(begins):
            begins.append((stages[len(begins) - 1], time.monotonic(), finished(out)))
        time.sleep(_POLL_SEC)
    end = time.monotonic()
    done = running.wait()
    assert done.returncode == 0, done.stderr
    assert left_behind(out) == [] and list(temporary_of(out).iterdir()) == []
    ends = [when for _, when, _ in begins[1:]] + [end]
    names = [name for name, _, _ in begins]
    moments = tuple(
        Moment(name, names[: at + 1].count(name), until - when, there)
        for at, ((name, when, there), until) in enumerate(zip(begins, ends, strict=True))
    )
    return Calm(journey, out, contents(journey.result(out)), moments, end - start)


def begin(
    journey: Journey,
    out: Path,
    *,
    environment: Mapping[str, str] | None = None,
    before: Callable[[], None] | None = None,
) -> Running:
    """Start the journey's command, with a place for temporary files beside `out`."""
    temporary = temporary_of(out)
    temporary.mkdir(exist_ok=True)
    own = {"TMPDIR": str(temporary), "OMP_NUM_THREADS": "1", **(environment or {})}
    return started(*journey.words(out), environment=own, before=before)


def temporary_of(out: Path) -> Path:
    """Where the journey's temporary files lie."""
    return out.with_name(f"{out.name}-tmp")


def prefilled(calm: Calm, moment: Moment, out: Path) -> None:
    """Lay down what was finished at the moment, so that a run comes to it at once."""
    out.mkdir(parents=True, exist_ok=True)
    for name in moment.finished:
        source, target = calm.out / name, out / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, target, copy_function=shutil.copy2)
        cost = source.with_name(f".{source.name}.cost.json")
        if cost.is_file():
            shutil.copy2(cost, target.with_name(cost.name))


def caught(
    calm: Calm, moment: Moment, fraction: float, out: Path, *, scratch: bool = False
) -> Running:
    """A run that has come to this fraction of the moment, from what was finished then or from
    `scratch`. One that was done too early is begun anew and caught earlier."""
    for _ in range(_TRIES):
        if not scratch:
            prefilled(calm, moment, out)
        out.mkdir(exist_ok=True)
        running = begin(calm.journey, out)
        if reach(running, moment, fraction):
            return running
        running.wait()
        shutil.rmtree(out)
        fraction *= _EARLIER
    raise AssertionError(f"always done before {moment}")


def ended_by(
    number: int,
    calm: Calm,
    moment: Moment,
    fraction: float,
    out: Path,
    *,
    alone: bool,
    scratch: bool = False,
) -> subprocess.CompletedProcess[str]:
    """What a run said that this signal, sent to it `alone` or to its children too, has ended at
    this fraction of the moment; nothing of it runs on. One that had done its work is begun anew
    and caught earlier."""
    for _ in range(_TRIES):
        running = caught(calm, moment, fraction, out, scratch=scratch)
        running.signal(number) if alone else running.signal_all(number)
        done = running.wait(PATIENT_SEC)
        left = left_of(running.pid)
        running.signal_all(signal.SIGKILL)
        assert not left, (moment, fraction, left)
        if done.returncode == _CODES[number]:
            return done
        assert contents(calm.journey.result(out)) == calm.contents, (moment, fraction, done)
        shutil.rmtree(out)
        fraction *= _EARLIER
    raise AssertionError(f"always done before {moment}")


def reach(running: Running, moment: Moment, fraction: float) -> bool:
    """Wait until the stage has begun, or the command where there is none, and this fraction of its
    time is over; whether the command still runs then."""
    ahead = list(map(_stage_of, moment.finished)).count(moment.stage)
    while running.runs:
        begun = said_stages(running.said).count(moment.stage) >= moment.count - ahead
        if begun if moment.stage else handles_its_end(running.pid):
            break
        time.sleep(_POLL_SEC)
    until = time.monotonic() + fraction * moment.sec
    while running.runs and time.monotonic() < until:
        time.sleep(_POLL_SEC)
    return running.runs


def said_stages(said: str) -> list[str]:
    """The stages that have begun, in order."""
    lines = said.splitlines()
    return [line.removesuffix(_BEGINS) for line in lines if line.endswith(_BEGINS)]


def finished(out: Path) -> tuple[str, ...]:
    """The finished stages under the folder."""
    found = (path.parent for path in out.rglob(".stages/*/artifact.json"))
    names = [path.relative_to(out).as_posix() for path in found if not path.name.startswith(".")]
    return tuple(sorted(names))


def marks(out: Path) -> dict[str, tuple[int, int]]:
    """What changes when a finished stage is made once more."""
    facts = {name: (out / name / "artifact.json").stat() for name in finished(out)}
    return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in facts.items()}


def chosen(calm: Calm, count: int, seed: int, *, whole: bool) -> list[tuple[Moment, float]]:
    """Seeded moments, each stage in turn, the slowest first, and where in each of them. Without
    `whole` the slowest is left out."""
    chance = random.Random(seed)
    ordered = sorted(calm.moments, key=lambda moment: -moment.sec)
    ordered = ordered if whole or len(ordered) == 1 else ordered[1:]
    return [(ordered[at % len(ordered)], chance.random()) for at in range(count)]


def _stage_of(folder: str) -> str:
    return folder.rpartition("/")[2].rpartition("-")[0]
