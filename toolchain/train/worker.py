"""The process that trains: one of its own, or one of several under Accelerate.

    python -m toolchain.train.worker JOB.json
    accelerate launch --config_file CONFIG.yaml -m toolchain.train.worker JOB.json

JOB.json is what `toolchain.train.launch.Job` holds. Checkpoints go to `job.work`, the result to
`job.result`; a fault that a user can mend goes to `job.work/error.json` and exit code 2.
"""

from __future__ import annotations

import math
import os
import resource
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from common.errors import EXIT_BAD_INPUT, UserError
from common.files import write_json
from toolchain.train.launch import ERROR, FIGURES, HISTORY, Job, read_job
from toolchain.train.rows import CLASSIFICATION, Task, collator, encode_split, task_of

_LOG_PER_EVALUATION = 20
_MOST_EVALUATION_STEPS = 1000


def main(path: Path) -> int:
    """Train as the job says; exit code 0, or 2 with `error.json`."""
    job = read_job(path)
    (job.work / ERROR).unlink(missing_ok=True)
    try:
        train(job)
    except UserError as error:
        facts = {"problem": error.problem, "mend": error.mend, "details": list(error.details)}
        write_json(job.work / ERROR, facts)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return 130
    return 0


def train(job: Job) -> None:
    """The whole training. Raises `UserError`; checkpoints that were whole stay."""
    from accelerate import PartialState
    from transformers import set_seed
    from transformers.utils import logging

    from toolchain.train.network import computes_in_bfloat16, load_network
    from toolchain.train.result import save_result

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    set_seed(job.settings.seed)
    state = PartialState()
    task = task_of(job.data, _tokenizer(job), job.settings, job.context_tokens)
    with state.local_main_process_first():
        rows = encode_split(task, "train", job.work / "rows")
        held_out = encode_split(task, "validation", job.work / "rows")
    if rows is None:
        raise UserError(f"{job.data} has no rows to train on")
    bf16 = computes_in_bfloat16(job.settings)
    network = load_network(job.model, task, bf16=bf16, trust_remote_code=job.trust_remote_code)
    figures = _before(network, task, rows, bf16, say=state.is_main_process)
    trainer, watch = _trainer(job, task, network, rows, held_out, bf16, figures)
    start = time.perf_counter()
    _run(job, trainer, watch)
    if trainer.is_world_process_zero():
        history = trainer.state.log_history
        figures |= _after(trainer, history, held_out is not None)
        figures |= {"wall_sec": round(time.perf_counter() - start, 3), "peak_rss_bytes": _peak()}
        write_json(job.work / HISTORY, history)
        write_json(job.work / FIGURES, figures)
    save_result(job, task, trainer)


def _tokenizer(job: Job) -> Any:
    from toolchain.hf import load_tokenizer

    return load_tokenizer(job.model, trust_remote_code=job.trust_remote_code)


def _before(network: Any, task: Task, rows: Any, bf16: bool, *, say: bool) -> dict[str, Any]:
    """Say what is to be trained and whether it fits; the figures of it."""
    from toolchain.hf import free_memory_bytes
    from toolchain.train.memory import as_text

    trainable = sum(p.numel() for p in network.parameters() if p.requires_grad)
    total = sum(_elements(p) for p in network.parameters())
    lengths = [len(ids) for ids in rows["input_ids"]]
    needed = _memory(network, task, trainable, total, max(lengths), bf16)
    free_bytes = free_memory_bytes()
    if say:
        lines = [
            f"trains {trainable:,} of {total:,} parameters ({trainable / total:.2%})",
            f"rows: {len(lengths):,}, {sum(lengths):,} tokens, the longest {max(lengths)}",
            as_text(needed, free_bytes),
        ]
        print("\n".join(lines), file=sys.stderr, flush=True)
    # The weights are loaded already; what comes on top must fit.
    if needed.total_bytes - needed.weights_bytes - needed.process_bytes > free_bytes:
        raise UserError(
            f"not enough memory to train: about {needed.total_bytes / 1e9:.1f} GB needed, "
            f"{free_bytes / 1e9:.1f} GB free beside the weights",
            "raise accumulate, lower max_tokens, set gradient_checkpointing, or quantization: nf4",
        )
    return {
        "task": task.kind,
        "labels": list(task.labels),
        "trainable_parameters": trainable,
        "parameters": total,
        "trainable_share": trainable / total,
        "train_rows": len(lengths),
        "train_tokens": sum(lengths),
        "bf16": bf16,
        "memory_estimate_bytes": needed.total_bytes,
    }


def _elements(parameter: Any) -> int:
    """Values of a parameter; a 4-bit one holds two in a byte."""
    shape = getattr(getattr(parameter, "quant_state", None), "shape", None)
    return math.prod(shape) if shape is not None else int(parameter.numel())


def _memory(
    network: Any, task: Task, trainable: int, total: int, longest: int, bf16: bool
) -> Any:
    from toolchain.train.memory import estimate

    config = network.config.get_text_config()
    settings, is_classifier = task.settings, task.kind == CLASSIFICATION
    embeddings = network.get_input_embeddings().weight.numel()
    return estimate(
        parameters=total,
        trainable=trainable,
        linear_parameters=max(total - 2 * embeddings, 0),
        rows=max(1, settings.batch_size // settings.accumulate),
        tokens=longest,
        hidden=int(config.hidden_size),
        layers=int(config.num_hidden_layers),
        outputs=0 if is_classifier else int(config.vocab_size),
        value_bytes=2 if bf16 else 4,
        nf4=settings.quantization == "nf4",
        checkpointing=settings.gradient_checkpointing,
    )


def _trainer(
    job: Job,
    task: Task,
    network: Any,
    rows: Any,
    held_out: Any,
    bf16: bool,
    figures: dict[str, Any],
) -> tuple[Any, Any]:
    """The Trainer, and what notices a loss that is no number."""
    from transformers import EarlyStoppingCallback, Trainer
    from transformers.trainer_callback import PrinterCallback

    from toolchain.train.watch import Progress, StopAtNoNumber, WholeCheckpoints

    tokenizer = task.tokenizer
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    if task.kind == CLASSIFICATION and network.config.pad_token_id is None:
        network.config.pad_token_id = pad
    per_step = figures["train_tokens"] / len(rows) * job.settings.batch_size
    watch = StopAtNoNumber()
    callbacks: list[Any] = [Progress(per_step), watch, WholeCheckpoints()]
    if job.settings.early_stopping_patience and held_out is not None:
        callbacks.append(EarlyStoppingCallback(job.settings.early_stopping_patience))
    trainer = Trainer(
        model=network,
        args=_arguments(job, len(rows), held_out is not None, bf16),
        train_dataset=rows,
        eval_dataset=held_out,
        data_collator=collator(pad or 0),
        compute_metrics=_scores if task.kind == CLASSIFICATION else None,
        callbacks=callbacks,
    )
    trainer.remove_callback(PrinterCallback)
    return trainer, watch


def _arguments(job: Job, rows: int, validates: bool, bf16: bool) -> Any:
    import torch
    from transformers import TrainingArguments

    settings = job.settings
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    part = settings.batch_size // (settings.accumulate * processes)
    if part * settings.accumulate * processes != settings.batch_size:
        raise UserError(
            f"batch_size {settings.batch_size} is no multiple of accumulate × processes "
            f"({settings.accumulate} × {processes})",
            "change one of them",
        )
    epoch_steps = math.ceil(rows / settings.batch_size)
    steps = settings.max_steps or math.ceil(epoch_steps * settings.epochs)
    every = settings.evaluation_steps or min(epoch_steps, steps, _MOST_EVALUATION_STEPS)
    # Checkpoints fall on a log line: a run that goes on from one logs the same as an undisturbed.
    shortest = max(1, every // _LOG_PER_EVALUATION)
    log_every = next(n for n in range(shortest, every + 1) if every % n == 0)
    os.environ["TENSORBOARD_LOGGING_DIR"] = str(job.tensorboard)
    return TrainingArguments(
        output_dir=str(job.work),
        per_device_train_batch_size=part,
        per_device_eval_batch_size=part,
        gradient_accumulation_steps=settings.accumulate,
        num_train_epochs=settings.epochs,
        max_steps=settings.max_steps or -1,
        learning_rate=settings.rate,
        lr_scheduler_type=settings.schedule,
        warmup_steps=math.ceil(steps * settings.warmup_ratio),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        bf16=bf16,
        activation_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        logging_strategy="steps",
        logging_steps=log_every,
        logging_nan_inf_filter=False,
        eval_strategy="steps" if validates else "no",
        eval_steps=every if validates else None,
        save_strategy="steps",
        save_steps=every,
        save_total_limit=2,
        load_best_model_at_end=validates,
        metric_for_best_model="loss" if validates else None,
        seed=settings.seed,
        use_cpu=not torch.cuda.is_available(),
        dataloader_num_workers=settings.dataloader_workers,
        dataloader_pin_memory=torch.cuda.is_available(),
        ddp_find_unused_parameters=False,
        remove_unused_columns=False,
        label_names=["labels"],
        disable_tqdm=True,
        report_to=["tensorboard"],
    )


def _scores(prediction: Any) -> dict[str, float]:
    from sklearn.metrics import accuracy_score, f1_score

    guesses = prediction.predictions.argmax(-1)
    return {
        "accuracy": float(accuracy_score(prediction.label_ids, guesses)),
        "macro_f1": float(f1_score(prediction.label_ids, guesses, average="macro")),
    }


def _run(job: Job, trainer: Any, watch: Any) -> None:
    """Train from the last whole checkpoint. Raises `UserError` for what a user can mend."""
    from safetensors import SafetensorError

    from toolchain.train.watch import last_checkpoint

    begin = last_checkpoint(job.work)
    if begin is not None and trainer.is_world_process_zero():
        print(f"goes on from step {begin.name.rsplit('-', 1)[1]}", file=sys.stderr, flush=True)
    trainer.accelerator.wait_for_everyone()
    try:
        trainer.train(resume_from_checkpoint=str(begin) if begin else None)
    except (OSError, SafetensorError, RuntimeError) as error:
        raise _explained(error, job) from error
    if watch.step is not None:
        kept = last_checkpoint(job.work)
        where = f"the last good checkpoint is kept in {kept}" if kept else "no checkpoint was saved"
        raise UserError(
            f"the loss is no number (NaN or infinite) at step {watch.step}; {where}",
            f"lower learning_rate ({job.settings.rate:g}), raise warmup_ratio, or set bf16: no",
        )


def _explained(error: Exception, job: Job) -> Exception:
    """A full disk or memory as a `UserError`; anything else as it is."""
    said = str(error).lower()
    free_bytes = shutil.disk_usage(job.work).free
    if "no space" in said or "enforce fail" in said or "file write failed" in said:
        return UserError(
            f"the disk is full ({free_bytes / 1e6:.0f} MB free): a checkpoint could not be saved",
            "free some space and run the same command: it goes on from the last whole checkpoint",
        )
    if "out of memory" in said or "can't allocate" in said:
        return UserError(
            "memory ran out while training",
            "raise accumulate, lower max_tokens, set gradient_checkpointing, or quantization: nf4",
        )
    return error


def _after(trainer: Any, history: list[dict[str, Any]], validates: bool) -> dict[str, Any]:
    """Figures of a finished training; those of validation are of the weights that are kept."""
    losses = [entry["loss"] for entry in history if "loss" in entry]
    found: dict[str, Any] = {
        "steps": trainer.state.global_step,
        "epochs": round(float(trainer.state.epoch or 0), 4),
        "planned_steps": trainer.state.max_steps,
        "stopped_early": trainer.state.global_step < trainer.state.max_steps,
        "train_loss": losses[-1] if losses else None,
    }
    best = trainer.state.best_global_step if validates else None
    kept = next((e for e in history if e.get("step") == best and "eval_loss" in e), None)
    if kept is not None:
        names = {"eval_loss": "validation_loss", "eval_accuracy": "accuracy"}
        names["eval_macro_f1"] = "macro_f1"
        found |= {ours: kept[name] for name, ours in names.items() if name in kept}
        found["best_step"] = best
    return found


def _peak() -> int:
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
