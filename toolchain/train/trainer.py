"""transformers' Trainer with what a run needs here: sealed checkpoints, a halt at NaN, validation
whose loss is the mean over tokens however many processes share the rows.

Imported by the worker process alone.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import Trainer, TrainingArguments

from common.errors import Lack, UserError
from common.folders import remove_folder
from common.resources import explained
from toolchain.train.batches import BLANK, Collate, EpochOrder, Rows
from toolchain.train.checkpoints import newest, rotate, seal, step_of
from toolchain.train.job import TRAIN_FILE, VALIDATION_FILE, TrainJob
from toolchain.train.network import computes_in_bf16
from toolchain.train.points import Points
from toolchain.train.result import best_step


class EdgeTrainer(Trainer):  # type: ignore[misc]  # transformers is not followed by mypy
    """A Trainer over a job's rows. `validated` names what a validation takes the mean of."""

    validated: tuple[str, ...] = ("loss",)

    def __init__(self, job: TrainJob, network: Any, points: Points, callbacks: list[Any]) -> None:
        self.job = job
        settings = job.settings
        packed = settings.packing and job.kind == "causal"
        super().__init__(
            model=network,
            args=_arguments(job, points),
            train_dataset=Rows(job.folder / TRAIN_FILE, job.kind, job.pad_token_id),
            data_collator=Collate(
                job.kind, job.pad_token_id, packed, numbered=job.distillation is not None
            ),
            callbacks=callbacks,
        )
        self._validation = (
            Rows(job.folder / VALIDATION_FILE, job.kind, job.pad_token_id, first=job.rows)
            if job.validation_rows
            else None
        )

    def _get_train_sampler(self, train_dataset: Any = None) -> EpochOrder:
        alone = self.accelerator.num_processes == 1
        of = 1 if alone else self.job.settings.batch_size
        self.order = EpochOrder(self.job.rows, self.job.settings.seed, of)
        return self.order

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """One batch forward and backward. Raises `UserError` when the loss is not a number."""
        loss: torch.Tensor = super().training_step(*args, **kwargs)
        if not bool(torch.isfinite(loss)):
            raise self._diverged(f"the loss is {float(loss)} at step {self.state.global_step + 1}")
        return loss

    def evaluate(self, *_args: Any, **_kwargs: Any) -> dict[str, float]:
        """Loss per learned token (or row) of the validation rows; a classifier's accuracy and
        macro F1 as well."""
        assert self._validation is not None
        classes = len(self.job.labels)
        device = self.accelerator.device
        sums = torch.zeros(len(self.validated) + 1, dtype=torch.float64, device=device)
        confusion = torch.zeros(max(1, classes), max(1, classes), device=device)
        self.model.eval()
        for rows in self._own_batches(len(self._validation)):
            batch = self._prepare_inputs(self.data_collator([self._validation[i] for i in rows]))
            with torch.no_grad():
                own, logits = self._validate(batch)
            sums += own
            if classes:
                _count_classes(logits, batch["labels"], confusion)
        self.model.train()
        sums, confusion = (self.accelerator.reduce(value) for value in (sums, confusion))
        means = (sums[:-1] / sums[-1]).tolist()
        metrics = {f"eval_{name}": mean for name, mean in zip(self.validated, means, strict=True)}
        if classes:
            metrics |= _class_metrics(confusion.cpu())
        self.log(metrics)
        # The control is changed in place; Trainer keeps the very object.
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def _validate(self, batch: dict[str, Any]) -> tuple[torch.Tensor, Any]:
        """Sums over a batch of what is `validated`, then how many tokens (or rows) those are; and
        the logits."""
        output = self.model_wrapped(**batch)
        if self.job.labels:
            return _class_sums(output.logits, batch["labels"]), output.logits
        learned = (batch["labels"][:, 1:] >= 0).sum()
        loss = output.loss.double() * learned if learned else learned.double()
        return torch.stack([loss, learned.double()]), output.logits

    def _own_batches(self, rows: int) -> list[Sequence[int]]:
        """This process's share of the validation rows: as many batches as every other's."""
        size, many = self.args.per_device_train_batch_size, self.accelerator.num_processes
        first = self.accelerator.process_index * size
        return [
            [i if i < rows else BLANK for i in range(start + first, start + first + size)]
            for start in range(0, rows, size * many)
        ]

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        step = self.state.global_step
        trained = (p.detach() for p in self.model.parameters() if p.requires_grad)
        own = (p.to_local() if hasattr(p, "to_local") else p for p in trained)
        if not all(bool(torch.isfinite(p).all()) for p in own):
            raise self._diverged(f"weights are not finite after step {step}")
        folder = Path(self.args.output_dir) / f"checkpoint-{step}"
        try:
            super()._save_checkpoint(model, trial)
            self.accelerator.wait_for_everyone()
            if self.is_world_process_zero():
                seal(folder)
                best = best_step(self.state.log_history)
                rotate(folder.parent, keep=() if best is None else (best,))
        except (OSError, RuntimeError, SafetensorError) as error:
            remove_folder(folder)
            lack = explained(error)
            if lack is None:
                raise
            raise Lack(
                f"checkpoint {step} cannot be saved to {folder.parent}: {lack.problem}",
                f"{lack.mend}; {self._kept()}",
            ) from None
        self.accelerator.wait_for_everyone()

    def _diverged(self, problem: str) -> UserError:
        settings = self.job.settings
        changes = [f"a lower learning_rate than {settings.rate:g}", "a larger warmup_ratio"]
        if computes_in_bf16(settings):
            changes.append("bf16 false")
        return UserError(
            f"training has diverged: {problem}", f"try {', '.join(changes)}; {self._kept()}"
        )

    def _kept(self) -> str:
        last = newest(Path(self.args.output_dir))
        if last is None:
            return "no checkpoint was saved before"
        return f"the last good checkpoint is kept (step {step_of(last)}): {last}"


def _arguments(job: TrainJob, points: Points) -> TrainingArguments:
    settings = job.settings
    on_cpu = not torch.cuda.is_available()
    processes = _world_size()
    if settings.batch_size % processes:
        raise UserError(
            f"batch_size {settings.batch_size} cannot be shared by {processes} processes",
            f"give a multiple of {processes}",
        )
    per_device = settings.batch_size // processes
    return TrainingArguments(
        output_dir=str(job.checkpoints),
        per_device_train_batch_size=per_device,
        gradient_accumulation_steps=settings.accumulate,
        max_steps=points.total_steps,
        learning_rate=settings.rate,
        lr_scheduler_type=settings.schedule
        if settings.schedule != "constant"
        else "constant_with_warmup",
        warmup_steps=round(points.total_steps * settings.warmup_ratio),
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        seed=settings.seed,
        bf16=computes_in_bf16(settings),
        activation_checkpointing=settings.gradient_checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False},
        # When to log, validate and save is the callback's matter (`Points`).
        logging_strategy="no",
        eval_strategy="no",
        save_strategy="no",
        logging_nan_inf_filter=False,
        report_to="none",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=not on_cpu,
        ddp_find_unused_parameters=False,
        use_cpu=on_cpu,
        ddp_backend="gloo" if on_cpu and processes > 1 else None,
    )


def _world_size() -> int:
    return int(os.environ.get("WORLD_SIZE", "1"))


def _class_sums(logits: Any, labels: Any) -> torch.Tensor:
    """A batch's loss and rows."""
    own = labels >= 0
    logits, labels = logits[own].double(), labels[own]
    loss = torch.nn.functional.cross_entropy(logits, labels, reduction="sum")
    return torch.stack([loss, own.sum().double()])


def _count_classes(logits: Any, labels: Any, confusion: Any) -> None:
    """Add a batch's answers to `confusion` [truth, answer]."""
    own = labels >= 0
    logits, labels = logits[own], labels[own]
    ones = torch.ones(len(labels), device=confusion.device)
    confusion.index_put_((labels, logits.argmax(-1)), ones, accumulate=True)


def _class_metrics(confusion: Any) -> dict[str, float]:
    from sklearn.metrics import (  # type: ignore[import-untyped, unused-ignore]
        accuracy_score,
        f1_score,
    )

    truth, answer = (part.tolist() for part in confusion.nonzero(as_tuple=True))
    weights = confusion[truth, answer].tolist()
    f1 = f1_score(truth, answer, average="macro", sample_weight=weights, zero_division=0)
    accuracy = accuracy_score(truth, answer, sample_weight=weights)
    return {"eval_accuracy": float(accuracy), "eval_macro_f1": float(f1)}
