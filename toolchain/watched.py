"""Run the command in a process of its own, so that a crash of an engine is told as bad input.

    sys.exit(watched(run))

llama.cpp and onnxruntime end the whole process on some damaged files. This process has nothing of
an engine in it: it waits, hands signals on, and says which file was open when the other one ended.
Where there is no fork, or no process or file more to be had, the command runs here.
"""

from __future__ import annotations

import os
import select
import signal
import sys
from collections.abc import Callable

from common.errors import EXIT_BAD_INPUT, UserError
from common.in_use import board, noted
from common.with_parent import end_with

_HANDED_ON = frozenset({signal.SIGINT, signal.SIGTERM, signal.SIGHUP})
_AWAITED = _HANDED_ON | {signal.SIGCHLD}
# Ends that somebody asked for, and the reader of a pipe that went away.
_ASKED_FOR = _HANDED_ON | {signal.SIGPIPE, signal.SIGQUIT}
_SIGNALLED = 128  # a shell's exit code for a program that a signal ended: 128 and its number
_HEARING_SEC = 0.5


def watched(run: Callable[[], int]) -> int:
    """The exit code of `run`, which runs in a process of its own; 2, with one clear message, when
    that process crashed."""
    if not hasattr(os, "fork") or not hasattr(signal, "sigwaitinfo"):
        return run()
    watching = os.getpid()
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ())
    try:
        board()
        heard, told = os.pipe()
        signal.pthread_sigmask(signal.SIG_BLOCK, _AWAITED)
        worker = os.fork()
    except OSError:  # the command itself tells what it lacks
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return run()
    if worker == 0:
        os.close(heard)
        end_with(watching)
        os.set_blocking(told, False)
        signal.set_wakeup_fd(told, warn_on_full_buffer=False)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return run()
    os.close(told)
    code = _exit_code(_wait(worker, heard))
    os.close(heard)
    return code


def _wait(worker: int, heard: int) -> int:
    """The worker's status once it has ended; signals to this process are handed on to it."""
    while True:
        info = signal.sigwaitinfo(_AWAITED)
        if info.si_signo == signal.SIGCHLD:
            ended, status = os.waitpid(worker, os.WNOHANG)
            if ended:
                return status
        # What a terminal sends, and what is sent to the whole group, the worker got as well.
        elif not _has_heard(info.si_signo, heard) and info.si_code <= 0:
            os.kill(worker, info.si_signo)


def _has_heard(number: int, heard: int) -> bool:
    """Whether the worker got a signal of this number itself: Python then writes it to the pipe.
    Nothing comes when it did not."""
    while select.select([heard], [], [], _HEARING_SEC)[0]:
        numbers = os.read(heard, 4096)
        if not numbers or number in numbers:  # it has ended, or heard it
            return True
    return False


def _exit_code(status: int) -> int:
    if not os.WIFSIGNALED(status):
        return os.waitstatus_to_exitcode(status)
    number = signal.Signals(os.WTERMSIG(status))
    if number in _ASKED_FOR:
        return _SIGNALLED + number
    print(f"error: {_told(number)}", file=sys.stderr)
    return EXIT_BAD_INPUT


def _told(number: signal.Signals) -> UserError:
    if number == signal.SIGKILL:
        return UserError(
            "the command was killed (SIGKILL), as a machine does that is short of memory",
            "close other programs, or take a smaller model or context",
        )
    files = noted()
    if not files:
        return UserError(
            f"the command crashed ({number.name})",
            "edgeforge doctor tells whether the engines work; a damaged file makes some of them "
            "crash: make it again, or copy it again",
        )
    engines = " or ".join(dict.fromkeys(engine for engine, _ in files))
    names = ", ".join(dict.fromkeys(file for _, file in files))
    return UserError(
        f"{engines} crashed on {names} ({number.name})",
        "the file is damaged or of a kind that this engine cannot run: make it again, or copy it "
        "again; or memory ran out: close other programs, or raise the limit (ulimit -v)",
    )
