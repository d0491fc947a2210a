"""Start the process that trains, or several through Accelerate, and tell what became of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import IO

from common.errors import EXIT_BAD_INPUT, Lack, Told, UserError, told
from common.files import write_text
from common.with_parent import with_parent
from runtimes.threads import free_cores
from toolchain.child import environment, module_command
from toolchain.train.job import TrainJob
from toolchain.train.worker import ERROR_MARK, PARENT

LAUNCH_FILE = "accelerate.yaml"  # of a run on this machine, beside its job
_WORKER = "toolchain.train.worker"
_END_SEC = 20.0
# Settings for one machine, whatever `accelerate config` has left in the user's home.
_ACCELERATE = """compute_environment: LOCAL_MACHINE
distributed_type: MULTI_GPU
mixed_precision: 'no'
num_machines: 1
machine_rank: 0
num_processes: {processes}
main_process_port: 0
use_cpu: false
"""


def run_workers(job_file: Path, job: TrainJob, accelerate_config: Path | None) -> None:
    """Run the job to its end. Raises the worker's own reason where it has one."""
    run_module(_WORKER, job_file, job.settings.processes, job.threads, accelerate_config)


def run_module(
    module: str, job_file: Path, processes: int, threads: int, accelerate_config: Path | None
) -> None:
    """Run a worker's module on a job's file, several through Accelerate. Raises the
    worker's own reason where it has one, else `UserError`."""
    command = module_command(module, job_file)
    if processes > 1 or accelerate_config is not None:
        settings = accelerate_config or _own_settings(job_file.parent, processes)
        launched = ("--config_file", settings, "-m", module, job_file)
        command = module_command("accelerate.commands.launch", *launched)
    worker = subprocess.Popen(
        with_parent(command),
        env=_environment(threads),
        stdout=subprocess.PIPE,
        text=True,
        encoding="utf-8",
    )
    assert worker.stdout is not None
    try:
        fault = _read(worker.stdout)
        code = worker.wait()
    except BaseException as error:
        _end(worker, heard=isinstance(error, KeyboardInterrupt))
        raise
    if code == 0:
        return
    if fault is not None:
        raise fault
    raise _unexplained(code)


def _read(stream: IO[str]) -> Told | None:
    """Pass on what workers print; the first fault that one of them names."""
    fault = None
    for line in stream:
        if not line.startswith(ERROR_MARK):
            sys.stderr.write(line)
            continue
        fault = fault or told(json.loads(line.removeprefix(ERROR_MARK)))
    return fault


def _environment(threads: int) -> dict[str, str]:
    own = {PARENT: str(os.getpid()), "OMP_NUM_THREADS": str(threads)}
    own |= {"PYTHONSAFEPATH": "1"}  # what Accelerate starts must not import from this folder
    return environment(**{**wait_policy(threads), **own})


def wait_policy(threads: int) -> dict[str, str]:
    """How threads that wait for each other do so. They spin where cores are free (half as fast
    again as asleep), and sleep where other work needs the cores (spinning costs it threefold)."""
    if "OMP_WAIT_POLICY" in os.environ:
        return {}
    return {"OMP_WAIT_POLICY": "ACTIVE" if free_cores(threads) else "PASSIVE"}


def _own_settings(folder: Path, processes: int) -> Path:
    path = folder / LAUNCH_FILE
    write_text(path, _ACCELERATE.format(processes=processes))
    return path


def _end(worker: subprocess.Popen[str], *, heard: bool) -> None:
    """Let the worker end by itself where it heard of it (Ctrl-C reaches it too), else make it."""
    for number in (None, signal.SIGTERM, signal.SIGKILL)[0 if heard else 1 :]:
        if number is not None:
            worker.send_signal(number)
        try:
            worker.wait(_END_SEC)
            return
        except subprocess.TimeoutExpired:
            continue


def _unexplained(code: int) -> Told:
    if code == -9:
        return Lack(
            "training was killed, most likely because memory ran out",
            "lower batch_size (and raise accumulate) or max_tokens, or close other programs; the "
            "same command goes on from the last checkpoint",
        )
    if code in (130, -2):
        raise KeyboardInterrupt
    return UserError(
        f"training ended with {'exit code' if code > 0 else 'signal'} {abs(code)}; the reason is "
        "above"
        if code != EXIT_BAD_INPUT
        else "training was refused; the reason is above",
        "the same command goes on from the last checkpoint",
    )
