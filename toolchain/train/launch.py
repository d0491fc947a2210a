"""Start the process that trains, by itself or through Accelerate, and bring its faults back."""

from __future__ import annotations

import signal
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_json, write_json
from toolchain.child import environment, module_command
from toolchain.train.settings import Finetune

JOB, ERROR, FIGURES, HISTORY = "job.json", "error.json", "figures.json", "history.json"
WORKER = "toolchain.train.worker"
_STOP_SEC = 20


@dataclass(frozen=True)
class Job:
    """One training. `work` keeps checkpoints and encoded rows, `result` gets the adapter or the
    weights, `tensorboard` the logs; `context_tokens` is the model's, if known."""

    model: Path
    data: Path
    work: Path
    result: Path
    tensorboard: Path
    settings: Finetune
    context_tokens: int | None
    trust_remote_code: bool


def read_job(path: Path) -> Job:
    """The job in a file that `launch` wrote."""
    facts: dict[str, Any] = read_json(path)
    for name in ("model", "data", "work", "result", "tensorboard"):
        facts[name] = Path(facts[name])
    facts["settings"] = Finetune.model_validate(facts["settings"])
    return Job(**facts)


def launch(job: Job) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Train; the figures and the log history. Raises `UserError` with the worker's own words."""
    job.work.mkdir(parents=True, exist_ok=True)
    facts = {**asdict(job), "settings": job.settings.model_dump(mode="json")}
    write_json(
        job.work / JOB, {k: str(v) if isinstance(v, Path) else v for k, v in facts.items()}
    )
    threads = {} if job.settings.processes == 1 else {"OMP_NUM_THREADS": "1"}
    with (job.work / "log.txt").open("a", encoding="utf-8") as log:
        child = subprocess.Popen(
            _command(job),
            stdout=log,
            env=environment(TOKENIZERS_PARALLELISM="false", PYTHONUNBUFFERED="1", **threads),
        )
        try:
            code = child.wait()
        except BaseException:
            _stop(child)
            raise
    if code == 0:
        return read_json(job.work / FIGURES), read_json(job.work / HISTORY)
    if (job.work / ERROR).is_file():
        fault = read_json(job.work / ERROR)
        raise UserError(fault["problem"], fault["mend"], details=fault["details"])
    if code in (130, -signal.SIGINT):
        raise KeyboardInterrupt
    how = f"by signal {-code}" if code < 0 else f"with code {code}"
    raise UserError(
        f"the training ended {how}; its own words are above",
        "checkpoints are kept: mend the cause and run the same command to go on",
    )


def _command(job: Job) -> list[str]:
    settings, path = job.settings, job.work / JOB
    if settings.accelerate_config is None and settings.processes == 1:
        return module_command(WORKER, path)
    options = ["--config_file", str(settings.accelerate_config)]
    if settings.accelerate_config is None:
        import torch

        count = str(settings.processes)
        options = ["--num_processes", count, "--num_machines", "1", "--mixed_precision", "no"]
        options += ["--dynamo_backend", "no", "--main_process_port", "0"]
        options += ["--multi_gpu"] if torch.cuda.device_count() >= settings.processes else ["--cpu"]
    return module_command("accelerate.commands.launch", *options, "-m", WORKER, path)


def _stop(child: subprocess.Popen[bytes]) -> None:
    """End the worker; it may be within a checkpoint, which it can leave half-written."""
    child.terminate()
    try:
        child.wait(_STOP_SEC)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()

