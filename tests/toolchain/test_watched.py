"""A command in a process of its own: its exit code, its crash told, signals handed on, its end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator

import psutil
import pytest
from command_line import ROOT

PROGRAM = """
import ctypes, os, sys, time
from pathlib import Path
from common.in_use import note
from toolchain.watched import watched

def run():
    print("runs", flush=True)
    kind = sys.argv[1]
    if kind == "crash":
        note("llama.cpp", Path("bad.gguf"))
        ctypes.string_at(0)
    if kind == "abort":
        os.abort()
    if kind == "killed":
        os.kill(os.getpid(), 9)
    if kind == "sleep":
        stops = 0
        while True:
            try:
                time.sleep(60)
            except KeyboardInterrupt:
                stops += 1
                print("stopped", flush=True)
                if stops == int(sys.argv[2]):
                    return 130
    return int(kind)

sys.exit(watched(run))
"""


@contextlib.contextmanager
def started(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """The program, once it runs."""
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        start_new_session=True,
    )
    with process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        try:
            yield process
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)


def ended(*arguments: str) -> tuple[int, str]:
    with started(*arguments) as process:
        _, err = process.communicate(timeout=120)
    return process.returncode, err


@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_the_exit_code_is_the_commands(code: int) -> None:
    assert ended(str(code)) == (code, "")


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("crash", "error: llama.cpp crashed on bad.gguf (SIGSEGV)"),
        ("abort", "error: the command crashed (SIGABRT)"),
        ("killed", "error: the command was killed (SIGKILL)"),
    ],
)
def test_a_crash_is_one_error_with_a_mend(kind: str, words: str) -> None:
    code, err = ended(kind)
    assert code == 2
    first, second = err.splitlines()
    assert first.startswith(words)
    assert second.startswith("hint: ")


def test_without_a_handle_or_a_process_more_the_command_runs_all_the_same() -> None:
    limits = {"RLIMIT_NOFILE": "3, 3", "RLIMIT_NPROC": "0, 0"}
    for name, values in limits.items():
        limited = "import resource; from common.in_use import note\n"
        limited += f"resource.setrlimit(resource.{name}, ({values}))\n"
        program = PROGRAM.replace("sys.exit(watched(run))", f"{limited}sys.exit(watched(run))")
        done = subprocess.run(
            [sys.executable, "-c", program, "7"],
            capture_output=True,
            text=True,
            env={**os.environ, "PYTHONPATH": str(ROOT)},
        )
        assert (done.returncode, done.stdout, done.stderr) == (7, "runs\n", ""), name


def test_an_interrupt_of_one_process_or_of_the_group_arrives_once() -> None:
    with started("sleep", "2") as process:
        assert process.stdout is not None
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "stopped\n"
        time.sleep(1)  # one that was handed on twice would have ended it
        os.killpg(process.pid, signal.SIGINT)
        out, _ = process.communicate(timeout=120)
    assert (process.returncode, out) == (130, "stopped\n")


def test_a_request_to_end_is_handed_on() -> None:
    with started("sleep", "1") as process:
        worker = psutil.Process(process.pid).children()[0]
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=120) == 128 + signal.SIGTERM
    assert_gone(worker)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel's own way")
def test_the_worker_ends_with_the_process_that_watches() -> None:
    with started("sleep", "1") as process:
        worker = psutil.Process(process.pid).children()[0]
        process.kill()
        process.wait(timeout=120)
    assert_gone(worker)


def assert_gone(worker: psutil.Process) -> None:
    """It has ended, though nobody may have asked for its exit code."""
    until = time.monotonic() + 60
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < until
        time.sleep(0.02)
