"""The trainer whose loss comes from a teacher. Imported by the worker process alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from toolchain.compress.distill.learned import flat, inputs_of, learned
from toolchain.compress.distill.losses import Parts, distillation_loss
from toolchain.compress.distill.teacher import open_teacher
from toolchain.train.job import TrainJob
from toolchain.train.points import Points
from toolchain.train.trainer import EdgeTrainer


class DistillTrainer(EdgeTrainer):
    """Trains the network of a job towards the job's teacher; logs the parts of the loss."""

    validated = ("loss", "loss_soft", "loss_hard")

    def __init__(self, job: TrainJob, network: Any, points: Points, callbacks: list[Any]) -> None:
        assert job.distillation is not None
        super().__init__(job, network, points, callbacks)
        # The learned places of all batches of a step are counted, and all processes share that.
        self.model_accepts_loss_kwargs = True
        self._loss_shifts_labels = job.kind == "causal"
        self._settings = job.distillation.settings
        self._teacher = open_teacher(job, self.accelerator.device)
        self._since_log = torch.zeros(3, dtype=torch.float64, device=self.accelerator.device)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Any = None,
    ) -> Any:
        """The batch's share of the step's loss: its sum over the learned places of all batches of
        the step."""
        loss, parts, output = self._distilled(model, inputs, num_items_in_batch)
        self._since_log += _sums(parts)
        loss = loss * self.accelerator.num_processes
        return (loss, output) if return_outputs else loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Adds the parts of the loss since the last log. A checkpoint falls on a logged step, so a
        run that goes on logs the same."""
        if "loss" in logs:
            sums = self.accelerator.reduce(self._since_log)
            soft, hard = (sums[:2] / sums[2].clamp(min=1)).tolist()
            logs = {**logs, "loss_soft": soft}
            if self._settings.alpha < 1:
                logs["loss_hard"] = hard
            self._since_log.zero_()
        super().log(logs, *args, **kwargs)

    def _distilled(
        self, model: Any, batch: dict[str, Any], divisor: Any = None
    ) -> tuple[Tensor, Parts, Any]:
        places = learned(batch, self.job.kind)
        targets = self._teacher.targets(batch)
        output = model(**inputs_of(batch))
        loss, parts = distillation_loss(
            flat(output.logits),
            places.positions,
            places.labels,
            targets,
            self._settings,
            divisor=divisor,
        )
        return loss, parts, output

    def _validate(self, batch: dict[str, Any]) -> tuple[Tensor, Any]:
        """Sums of the loss and its parts and how many places, and the logits."""
        loss, parts, output = self._distilled(self.model_wrapped, batch, 1.0)
        return torch.cat([loss.double()[None], _sums(parts)]), output.logits


def _sums(parts: Parts) -> Tensor:
    """`[soft, hard, places]`."""
    count = parts.soft.new_tensor(parts.tokens)
    return torch.stack([parts.soft, parts.hard, count]).double()
