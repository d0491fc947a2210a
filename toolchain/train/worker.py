"""The process that trains; one of several under Accelerate.

    python -m toolchain.train.worker JOB.json
    accelerate launch --config_file FSDP.yaml -m toolchain.train.worker JOB.json

`edgeforge finetune` starts it; on several machines start it on each, with the job's folder shared
between them. It goes on from the newest complete checkpoint. A fault that a user can mend comes as
one line on standard output, `edgeforge-error: {"problem": …, "mend": …}`, and exit code 2.
"""

from __future__ import annotations

import json
import os
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from common.errors import EXIT_BAD_INPUT, Told, UserError
from common.files import write_json
from common.locks import only_writer
from common.resources import explained
from toolchain.train import checkpoints
from toolchain.train.job import TrainJob, read_job
from toolchain.train.points import Points, plan_points

DONE = "done.json"
ERROR_MARK = "edgeforge-error: "
PARENT = "EDGEFORGE_PARENT_PID"
_INTERRUPTED = 130
_USE_FSDP = "ACCELERATE_USE_FSDP"
_WATCH_SEC = 0.5
_LOCK_TRIES = 20


def main() -> int:
    """Train the job of the file that is named; the exit code."""
    return reporting(lambda: train(read_job(Path(sys.argv[1]))))


def reporting(work: Callable[[], None]) -> int:
    """Do a worker's work; the exit code. What a user can mend is told to the process that started
    this one."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    _end_with_parent()
    try:
        work()
    except KeyboardInterrupt:
        return _INTERRUPTED
    except Exception as error:
        told = error if isinstance(error, Told) else explained(error)
        if told is None:
            raise
        print(ERROR_MARK + json.dumps(told.facts()), flush=True)
        return EXIT_BAD_INPUT
    return 0


def train(job: TrainJob) -> None:
    """Train to the end; the last checkpoint and `done.json` are in the job's folder then. Raises
    `UserError` for what a user can mend: divergence, memory, a full disk."""
    if (job.folder / DONE).is_file():
        return
    first = int(os.environ.get("RANK", "0")) == 0
    with ExitStack() as stack:
        if first:
            _lock(job, stack)
            dropped = checkpoints.drop_incomplete(job.checkpoints)
            if dropped:
                _say(f"{', '.join(dropped)} was not saved to the end and is left out")
        stopped_at, total = _run(job, first)
        if first:
            facts = {"step": stopped_at, "early_stopped": stopped_at < total}
            write_json(job.folder / DONE, facts)


def _run(job: TrainJob, first: bool) -> tuple[int, int]:
    """The last step, and that of the plan."""
    from toolchain.train.network import load_network, quiet_libraries

    quiet_libraries()
    import torch
    import transformers

    from toolchain.train.callbacks import Board, Progress, Steering

    settings = job.settings
    here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    torch.set_num_threads(max(1, job.threads * settings.processes // here))
    distillation = job.distillation
    _settle_sharding(first, exact=distillation is not None and distillation.exact is not None)
    transformers.set_seed(settings.seed)  # a new head and the adapter are drawn from it
    network = load_network(
        job.model, job.kind, job.labels, settings, trust_remote_code=job.trust_remote_code
    )
    points = points_of(job)
    callbacks: list[object] = [
        Steering(points, settings.early_stopping_patience), *_keeping_zeros(job, network, first)
    ]  # fmt: skip
    if first:
        per_step = job.tokens / job.rows * settings.rows_per_step
        callbacks.append(Progress(points.total_steps, per_step))
        if job.logs is not None:
            callbacks.append(Board(job.logs))
    trainer = _trainer_class(job)(job, network, points, callbacks)
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.accelerator.wait_for_everyone()
    start = checkpoints.newest(job.checkpoints)
    if first and start is not None:
        _say(f"going on from step {checkpoints.step_of(start)} of {points.total_steps}")
    try:
        trainer.train(resume_from_checkpoint=None if start is None else str(start))
    except torch.OutOfMemoryError as error:
        raise UserError(
            f"the GPU's memory is too small: {str(error).splitlines()[0]}",
            "lower batch_size (and raise accumulate), lower max_tokens, or set "
            "gradient_checkpointing true",
        ) from None
    return trainer.state.global_step, points.total_steps


def _trainer_class(job: TrainJob) -> Any:
    if job.distillation is not None:
        from toolchain.compress.distill.trainer import DistillTrainer

        return DistillTrainer
    from toolchain.train.trainer import EdgeTrainer

    return EdgeTrainer


def _keeping_zeros(job: TrainJob, network: object, first: bool) -> list[object]:
    """What keeps the zeros of a sparse base: a callback, or masks on the adapter."""
    from toolchain.compress.sparse.record import kept_tensors

    names = kept_tensors(job.model)
    if not names:
        return []
    from toolchain.compress.sparse.training import KeepZeros, mask_adapter

    if first:
        _say("the zeros of the sparse base are kept")
    if job.settings.method == "full":
        # Sharded parameters are no whole tensors: there the result's zeros are set at the end.
        return [] if os.environ.get(_USE_FSDP) == "true" else [KeepZeros(names)]
    mask_adapter(network, names)
    return []


def _settle_sharding(first: bool, *, exact: bool) -> None:
    """Accelerate shards (FSDP) on accelerators alone: without one it would run unsharded and keep
    quiet, or stop with a word on devices."""
    import torch

    if os.environ.get(_USE_FSDP, "false").lower() != "true":
        return
    if not torch.cuda.is_available():
        os.environ[_USE_FSDP] = "false"
        if first:
            _say("warning: no GPU, so FSDP does not shard: every process holds the whole model")
    elif exact:
        raise UserError(
            "distill.exact rounds whole tensors, and FSDP leaves each process a part of them",
            "take an accelerate_config without FSDP, or leave exact out",
        )
    elif os.environ.get("FSDP_STATE_DICT_TYPE") != "FULL_STATE_DICT":
        raise UserError(
            "FSDP would save checkpoints in shards, which hold no whole adapter or model",
            "set fsdp_state_dict_type: FULL_STATE_DICT in the file of accelerate_config",
        )


def points_of(job: TrainJob) -> Points:
    """When the job logs, validates and saves."""
    settings = job.settings.model_copy(update={"saves_per_epoch": job.saves_per_epoch})
    return plan_points(job.rows, settings, validates=job.validation_rows > 0)


def _lock(job: TrainJob, stack: ExitStack) -> None:
    """One run writes to a folder. One whose parent was killed takes a moment to end."""
    for attempt in range(_LOCK_TRIES):
        try:
            stack.enter_context(only_writer(job.folder))
            return
        except UserError:
            if attempt == _LOCK_TRIES - 1:
                raise
            time.sleep(_WATCH_SEC)


def _end_with_parent() -> None:
    """End this process when the one that started it (named in the environment) is gone."""
    parent = int(os.environ.get(PARENT, "0"))
    if not parent:
        return

    def watch() -> None:
        while True:
            try:
                os.kill(parent, 0)
            except ProcessLookupError:
                os._exit(1)
            time.sleep(_WATCH_SEC)

    threading.Thread(target=watch, daemon=True).start()


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
