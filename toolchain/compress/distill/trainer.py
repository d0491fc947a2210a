"""The trainer whose loss comes from a teacher. Imported by the worker process alone."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from toolchain.compress.distill.learned import flat, inputs_of, learned
from toolchain.compress.distill.losses import distillation_loss
from toolchain.compress.distill.matching import FILE, attach, valid_places
from toolchain.compress.distill.on_policy import is_own_turn, own_answers
from toolchain.compress.distill.settings import Distill
from toolchain.compress.distill.teacher import open_teacher
from toolchain.compress.exact.rounding import ExactWeights, held_grids
from toolchain.compress.exact.scales import PACE, LearnedScales
from toolchain.compress.exact.sidecar import read_exact
from toolchain.train.job import Distillation, TrainJob
from toolchain.train.points import Points
from toolchain.train.trainer import EdgeTrainer


class DistillTrainer(EdgeTrainer):
    """Trains the network of a job towards the job's teacher; logs the parts of the loss."""

    def __init__(self, job: TrainJob, network: Any, points: Points, callbacks: list[Any]) -> None:
        assert job.distillation is not None
        self._settings = job.distillation.settings
        self._matching = attach(network, job) if self._settings.matches else None
        super().__init__(job, network, points, callbacks)
        # The learned places of all batches of a step are counted, and all processes share that.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = job.kind == "causal"
        self._teacher: Any = open_teacher(job, self.accelerator.device)
        self.parts = _part_names(self._settings)
        self.validated = ("loss", *self.parts)
        self._since_log = self._no_sums()
        self._exact = _exact_weights(network, job.distillation)

    def training_step(self, *args: Any, **kwargs: Any) -> Tensor:
        """With `exact`, forward and backward are those of the file's weights."""
        with self._exact.in_place(self.state.global_step) if self._exact else nullcontext():
            loss: Tensor = super().training_step(*args, **kwargs)
        if self._exact:
            self._exact.learn()
        return loss

    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        """With `exact`, scales that are learned train beside the network: they are no part of it,
        so that several processes need not wait for gradients that no forward pass gives."""
        optimizer = super().create_optimizer(*args, **kwargs)
        if scales := self._scales:
            rate = self.args.learning_rate * PACE
            group = {"params": list(scales.powers.values()), "lr": rate, "weight_decay": 0.0}
            optimizer.add_param_group(group)
        return optimizer

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """As every validation; with `exact`, of the file's weights."""
        with self._exact.in_place() if self._exact else nullcontext():
            return super().evaluate(*args, **kwargs)

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        super()._save_checkpoint(model, trial)
        if self._exact:
            self._exact.forget()  # as a run does that goes on from this checkpoint

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The batch's share of the step's loss: its sum over the learned places of all batches of
        the step."""
        step = self.state.global_step
        settings, batch, many = self._settings, inputs, self.accelerator.num_processes
        if settings.on_policy and is_own_turn(settings, step):
            network = self.accelerator.unwrap_model(model)
            batch = own_answers(network, inputs, settings, step, self.job.pad_token_id)
            settings = settings.model_copy(update={"alpha": 1.0})  # it writes no labels
            places = int((batch["labels"] >= 0).sum())
            num_items_in_batch, many = places * self.current_gradient_accumulation_steps, 1
        loss, sums, output = self._distilled(model, batch, settings)
        self._since_log += sums
        loss = loss * many / max(1, num_items_in_batch)
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the parts of the loss since the last log. A checkpoint falls on a logged step, so a
        run that goes on logs the same."""
        if "loss" in logs:
            sums = self.accelerator.reduce(self._since_log)
            means = (sums[:-1] / sums[-1].clamp(min=1)).tolist()
            logs = {**logs, **dict(zip(self.parts, means, strict=True))}
            self._since_log = self._no_sums()
        super().log(logs, *args, **kwargs)

    def _distilled(
        self, model: Any, batch: dict[str, Any], settings: Distill
    ) -> tuple[Tensor, Tensor, Any]:
        """The loss and its parts (`parts`, then how many places) as sums over the learned places,
        and the student's output."""
        places = learned(batch, self.job.kind)
        if self._matching is None:
            targets = self._teacher.targets(batch)
            output = model(**inputs_of(batch))
        else:
            taught = self._teacher.forward(batch, **self._matching.wanted)
            targets = self._teacher.targets_of(taught, batch)
            output = model(**inputs_of(batch), **self._matching.wanted)
        loss, parts = distillation_loss(
            flat(output.logits), places.positions, places.labels, targets, settings, divisor=1.0
        )
        found = {"loss_soft": parts.soft, "loss_hard": parts.hard}
        if self._matching is not None:
            hidden, attention = self._matching(output, taught, valid_places(batch))
            # A batch counts by its learned places here too, however the step is split.
            found["loss_hidden"], found["loss_attention"] = (
                part * parts.tokens for part in (hidden, attention)
            )
            loss = loss + settings.hidden_weight * found["loss_hidden"]
            loss = loss + settings.attention_weight * found["loss_attention"]
        sums = [found[name].detach() for name in self.parts]
        sums.append(loss.new_tensor(parts.tokens))
        return loss, torch.stack([value.double() for value in sums]), output

    def _validate(self, batch: dict[str, Any]) -> tuple[Tensor, Any]:
        loss, sums, output = self._distilled(self.model_wrapped, batch, self._settings)
        return torch.cat([loss.double()[None], sums]), output.logits

    def _no_sums(self) -> Tensor:
        count = len(self.parts) + 1
        return torch.zeros(count, dtype=torch.float64, device=self.accelerator.device)

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        super()._save(output_dir, state_dict)
        # An adapter's checkpoint holds nothing but the adapter.
        if self._matching is not None and output_dir is not None and self.args.should_save:
            own = {name: value.cpu() for name, value in self._matching.state_dict().items()}
            save_file(own, Path(output_dir) / FILE)
        if self._scales and output_dir is not None and self.args.should_save:
            self._scales.save(Path(output_dir))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self._matching is not None:
            self._matching.load_state_dict(load_file(Path(resume_from_checkpoint) / FILE))
        if self._scales:
            self._scales.load(Path(resume_from_checkpoint))

    @property
    def _scales(self) -> LearnedScales | None:
        return self._exact.scales if self._exact else None


def _exact_weights(network: Any, job: Distillation) -> ExactWeights | None:
    if job.exact is None:
        return None
    types, begun = job.exact.types, read_exact(job.start) if job.start else None
    scales = None
    if job.settings.exact_scales == "learned":
        scales = LearnedScales(network, types, begun.blocks if begun else None)
    held = held_grids(begun, learned=scales or ()) if begun else None
    return ExactWeights(network, types, job.exact.every, held, scales)


def _part_names(settings: Distill) -> tuple[str, ...]:
    """The parts of the loss that there are."""
    there = {
        "loss_soft": True,
        "loss_hard": settings.alpha < 1,
        "loss_hidden": settings.hidden_weight > 0,
        "loss_attention": settings.attention_weight > 0,
    }
    return tuple(name for name, is_there in there.items() if is_there)
