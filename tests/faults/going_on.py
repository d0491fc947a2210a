"""What must hold after a disturbance, and after the next run of the same command."""

from __future__ import annotations

from pathlib import Path

from journeys import contents, left_behind
from moments import PATIENT_SEC, Calm, begin, finished, marks, temporary_of

from toolchain import artifact as artifacts


def require_one_error(code: int, said: str, case: object) -> None:
    """One error in plain words with its mend, and exit code 2."""
    lines = said.splitlines()
    assert code == 2, (case, code, said)
    assert sum(line.startswith("error: ") for line in lines) == 1, (case, said)
    assert "Traceback" not in said, (case, said)
    assert any(line.startswith("hint: ") for line in lines), (case, said)


def require_tidy(out: Path, case: object) -> None:
    """Nothing half-made is left, but what a stage goes on from; what is finished is sound."""
    halves = [name for name in left_behind(out) if not name.endswith(".resume")]
    assert not halves, (case, halves)
    for name in finished(out):
        assert artifacts.load(out / name).damaged_files() == [], (case, name)


def require_going_on(calm: Calm, out: Path, case: object) -> None:
    """The same command comes to the undisturbed end, makes nothing twice, and leaves no more than
    an undisturbed run."""
    before = marks(out)
    done = begin(calm.journey, out).wait(PATIENT_SEC)
    assert done.returncode == 0, (case, done.stderr)
    assert contents(calm.journey.result(out)) == calm.contents, case
    after = marks(out)
    again = [name for name in before if after.get(name) != before[name] and _kept(out, name)]
    assert not again, (case, again)
    assert left_behind(out) == [], case
    assert list(temporary_of(out).iterdir()) == [], case


def _kept(out: Path, stage: str) -> bool:
    """Whether the stage's workspace is still there: a verb may remove its own once it is done."""
    return (out / stage).parent.is_dir()
