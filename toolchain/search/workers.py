"""Workers: one in this process, or several processes that share the study."""

from __future__ import annotations

import multiprocessing
import os
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.errors import Told, UserError
from common.with_parent import end_with
from toolchain.pipeline import say_on_stderr

if TYPE_CHECKING:
    from toolchain.search.session import SearchRequest, Session

_STUBBORN = 3  # known points in a row before the search looks for new ones itself
_MOST_LOOKED_AT = 60  # each takes a dry run of the quantizer
_KEPT = "finished trials are kept: run the same command to go on"
Say = Callable[[str], None]


@dataclass(frozen=True)
class Fault:
    """A worker's error, as it crosses processes."""

    problem: str
    mend: str
    details: tuple[str, ...] = ()


def run_workers(session: Session, say: Say) -> None:
    """Run trials until the study has as many as were asked for, or the space is exhausted. Raises
    `UserError` when a worker cannot go on; what was finished stays."""
    if session.request.workers == 1:
        try:
            work(session, 0, say, lambda: False)
        except UserError as error:
            raise _with_hint(error.problem, error.mend, error.details) from None
        return
    _run_processes(session.request)


def work(session: Session, worker: int, say: Say, stopped: Callable[[], bool]) -> None:
    """One worker's loop."""
    from toolchain.search.trial import Runner

    request, study = session.request, session.study
    name = session.job.workspace.root.name
    runner = Runner(session.bench, study, session.settings, name, say, request.device)
    while not stopped() and len(study.finished()) + len(study.running()) < request.trials:
        study.take_sampler(worker, request.trials, runner.skipped)
        if runner.skipped >= _STUBBORN:
            say("looking for points that nobody measured …")
            place = f"{session.settings.seed} {worker} {len(study.finished())} {runner.skipped}"
            chance = random.Random(place)
            if not _enqueue_new(runner, chance):
                say("every point of the space was looked at")
                return
        study.run_one(runner)


def _enqueue_new(runner: Any, chance: random.Random) -> bool:
    """Have a point tried next that nobody measured: one that may be the best, near the best or
    anywhere, else any; False where a long look finds none."""
    for better in (True, False):
        for count, indices in enumerate(runner.study.nearby(chance)):
            if runner.fresh(indices, better=better):
                runner.free = not better
                runner.study.inner.enqueue_trial(indices)
                return True
            if count >= _MOST_LOOKED_AT:
                break
    return False


def _run_processes(request: SearchRequest) -> None:
    context = multiprocessing.get_context("spawn")
    stop, faults = context.Event(), context.SimpleQueue()
    processes = [
        context.Process(
            target=_process, args=(request, os.getpid(), number, stop, faults), daemon=True
        )
        for number in range(request.workers)
    ]
    for process in processes:
        process.start()
    try:
        for process in processes:
            process.join()
    except BaseException:
        stop.set()
        for process in processes:
            process.terminate()
            process.join()
        raise
    if not faults.empty():
        fault: Fault = faults.get()
        raise _with_hint(fault.problem, fault.mend, fault.details)
    died = [process.exitcode for process in processes if process.exitcode]
    if died:
        raise _with_hint(
            f"{len(died)} of {len(processes)} workers died (exit code {died[0]})",
            "the machine may be short of memory: fewer --workers",
            (),
        )


def _process(request: SearchRequest, parent: int, number: int, stop: Any, faults: Any) -> None:
    """A worker process, which ends with its parent."""
    from toolchain.search.session import open_session

    end_with(parent)
    try:
        work(open_session(request, say_on_stderr), number, say_on_stderr, stop.is_set)
    except Told as error:
        stop.set()
        faults.put(Fault(error.problem, error.mend, error.details))
    except KeyboardInterrupt:
        return


def _with_hint(problem: str, mend: str, details: tuple[str, ...]) -> UserError:
    told = f"{mend}; {_KEPT}" if mend and "same command" not in mend else mend or _KEPT
    return UserError(problem, told, details=details)
