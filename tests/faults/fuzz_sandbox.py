"""Cases in processes with limits: what crashes, hangs, eats memory or writes elsewhere is found.

    faults = run_cases(range(10_000), read_case, folder, memory_bytes=1 << 30)

A process works through many cases and says before each which it is; when it dies, that case is at
fault and a new process goes on after it.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from common.errors import UserError

LIMIT_SEC = 10
# A machine that is busy elsewhere is no hang: the case is tried once more, with more time.
PATIENT_SEC = 60
MEMORY_BYTES = 1 << 30
BATCH = 500
_REMOVING = ("os.remove", "os.rmdir", "os.mkdir", "os.chmod")
_LINKING = ("os.link", "os.symlink")
_FORBIDDEN = ("os.system", "socket.connect", "os.exec", "os.posix_spawn", "subprocess.Popen")
ACCEPTED, REFUSED = "accepted", "refused"


class Silent(Exception):
    """A damaged file was taken and something of it is not as it was."""


@dataclass
class Outcome:
    """How many cases ended how; `faults` has (case, what happened) of each that must not."""

    counts: Counter[str] = field(default_factory=Counter)
    faults: list[tuple[int, str]] = field(default_factory=list)

    def told(self, most: int = 12) -> str:
        """For an assertion's message: each kind of fault once, with its first case."""
        kinds: dict[str, list[int]] = {}
        for case, what in self.faults:
            kinds.setdefault(what, []).append(case)
        often = sorted(kinds.items(), key=lambda item: -len(item[1]))[:most]
        lines = [f"{len(cases)}x, first {cases[0]}: {what[:600]}" for what, cases in often]
        return "\n".join([f"{dict(self.counts)}", *lines])


Read = Callable[[int, Path], object]


@dataclass(frozen=True)
class _Limits:
    """Of a process: memory beyond what it has, seconds for a case, whether it may start others."""

    memory_bytes: int
    sec: float
    processes_allowed: bool


def run_cases(
    cases: Sequence[int],
    read: Read,
    folder: Path,
    *,
    memory_bytes: int = MEMORY_BYTES,
    processes_allowed: bool = False,
) -> Outcome:
    """`read(case, work)` makes the case in the empty folder `work` and lets the product read it:
    it returns when the file is taken and raises `UserError` when it is refused. Everything else is
    a fault: another exception, a signal, more than ten seconds, a write outside `folder`.
    """
    outcome, waiting = Outcome(), list(cases)
    tried_again: set[int] = set()
    while waiting:
        again = waiting[0] in tried_again
        batch = waiting[: 1 if again else BATCH]
        limits = _Limits(memory_bytes, PATIENT_SEC if again else LIMIT_SEC, processes_allowed)
        done, died = _batch(batch, read, folder, limits)
        for case, kind, note in done:
            outcome.counts[kind] += 1
            if kind not in (ACCEPTED, REFUSED):
                outcome.faults.append((case, f"{kind}: {note}"))
        waiting = waiting[len(done) :]
        if died is None:
            continue
        case = waiting[0]
        if died == signal.SIGALRM and case not in tried_again:
            tried_again.add(case)
            continue
        kind = "hang" if died == signal.SIGALRM else "crash"
        outcome.counts[kind] += 1
        outcome.faults.append((case, f"{kind}: {signal.Signals(died).name}"))
        waiting = waiting[1:]
    return outcome


def _batch(
    cases: Sequence[int], read: Read, folder: Path, limits: _Limits
) -> tuple[list[tuple[int, str, str]], int | None]:
    """What the cases came to, as far as the process got, and the signal that ended it."""
    ours, theirs = os.pipe()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        os.close(ours)
        _work(cases, read, folder, limits, theirs)
    os.close(theirs)
    with os.fdopen(ours, encoding="utf-8") as stream:
        rows = [json.loads(line) for line in stream]
    _, status = os.waitpid(pid, 0)
    died = os.WTERMSIG(status) if os.WIFSIGNALED(status) else None
    if died is None and len(rows) < len(cases):
        rows.append([cases[len(rows)], "exit", f"the process ended with {status}"])
    return [tuple(row) for row in rows], died


def _work(cases: Sequence[int], read: Read, folder: Path, limits: _Limits, out: int) -> None:
    """The process's part; it ends here."""
    try:
        _limit(limits.memory_bytes)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 1)
        os.dup2(null, 2)
        tempfile.tempdir = str(folder)
        touched = _watch_writes(folder, limits.processes_allowed)
        for case in cases:
            signal.setitimer(signal.ITIMER_REAL, limits.sec)
            with tempfile.TemporaryDirectory(dir=folder) as work:
                os.chdir(work)
                kind, note = _tried(read, case, Path(work))
                os.chdir(folder)
            signal.setitimer(signal.ITIMER_REAL, 0)
            if touched:
                kind, note = "touched", "; ".join(touched)
                touched.clear()
            os.write(out, (json.dumps([case, kind, note]) + "\n").encode())
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def _tried(read: Read, case: int, work: Path) -> tuple[str, str]:
    try:
        read(case, work)
    except UserError as error:
        return (REFUSED, "") if error.problem.strip() else ("silent refusal", "no reason given")
    except Silent as error:
        return "silent acceptance", str(error)
    except BaseException as error:
        last = traceback.extract_tb(error.__traceback__)[-5:]
        places = " < ".join(f"{Path(f.filename).name}:{f.lineno}" for f in reversed(last))
        return "traceback", f"{type(error).__name__}: {str(error)[:200]} ({places})"
    return ACCEPTED, ""


def _limit(memory_bytes: int) -> None:
    """Address space: what the process has, and so much more."""
    pages = int(Path("/proc/self/statm").read_text("utf-8").split()[0])
    most = pages * resource.getpagesize() + memory_bytes
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGALRM, signal.SIG_DFL)


def _watch_writes(folder: Path, processes_allowed: bool) -> list[str]:
    """A list that Python's own reports of writes outside the folder go into."""
    touched: list[str] = []
    inside = str(folder)

    def outside(path: Any) -> bool:
        if not isinstance(path, str | bytes | os.PathLike):
            return False
        full = os.path.realpath(os.fsdecode(path))
        return not full.startswith((inside, "/dev/", "/proc/"))

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, mode, flags = arguments
            writes = isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if writes and outside(path):
                touched.append(f"opened {path!r} ({mode})")
        elif event in _REMOVING and arguments[-1] in (-1, None) and outside(arguments[0]):
            touched.append(f"{event} {arguments[0]!r}")
        elif (event == "os.rename" and outside(arguments[0])) or (
            event in ("os.rename", *_LINKING) and outside(arguments[1])
        ):
            touched.append(f"{event} {arguments[:2]!r}")
        elif event in _FORBIDDEN and not processes_allowed and not _renders(arguments):
            touched.append(f"{event} {str(arguments)[:100]}")

    sys.addaudithook(hook)
    return touched


def _renders(arguments: tuple[Any, ...]) -> bool:
    """Whether a process is started for chat templates, which the product does to be safe."""
    return "toolchain.data.template_process" in str(arguments[1:2])


def each(*readers: Callable[[], object], all_must: bool = False) -> None:
    """Let every reader look, whatever the others say; the last refusal is raised at the end when
    all of them refused, or with `all_must` when one did."""
    refusals: list[UserError] = []
    for reader in readers:
        try:
            reader()
        except UserError as error:
            refusals.append(error)
    if len(refusals) == len(readers) or (refusals and all_must):
        raise refusals[-1]
