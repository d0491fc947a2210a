"""Hidden states and attentions of the student drawn towards the teacher's, layer by layer.

    matching = Matching(student.config, teacher.config, settings)
    hidden, attention = matching(student_output, teacher_output, valid)

Where widths differ, a learned projection lifts the student's states into the teacher's width; it is
trained with the student, kept in checkpoints and left out of the result. After TinyBERT (Jiao et
al. 2020, arXiv:1909.10351), with errors relative to the teacher's states, whose scale differs by
orders between layers, and attentions compared as distributions (MobileBERT, arXiv:2004.02984).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from common.errors import UserError
from toolchain.compress.distill.settings import Distill
from toolchain.train.job import TrainJob

FILE = "projections.safetensors"
_LEAST = 1e-9


def layer_map(student_layers: int, teacher_layers: int, wanted: Sequence[int]) -> tuple[int, ...]:
    """The teacher's layer for each of the student's, from 0: as wanted, else spread evenly with
    last on last. Raises `UserError` for a map that does not fit."""
    if not wanted:
        return tuple(
            (number + 1) * teacher_layers // student_layers - 1 if student_layers <= teacher_layers
            else number * teacher_layers // student_layers
            for number in range(student_layers)
        )  # fmt: skip
    if len(wanted) != student_layers or not all(0 <= layer < teacher_layers for layer in wanted):
        raise UserError(
            f"layer_map {', '.join(map(str, wanted))} does not fit: the student has "
            f"{student_layers} layers, the teacher {teacher_layers}",
            f"give {student_layers} numbers from 0 to {teacher_layers - 1}, or leave it out",
        )
    return tuple(wanted)


def attach(network: Any, job: TrainJob) -> Matching:
    """The matching of a job, made part of the network: so it is trained, clipped and moved to the
    device with the rest."""
    from transformers import AutoConfig

    wanted = job.distillation
    assert wanted is not None
    teacher = AutoConfig.from_pretrained(
        wanted.teacher, trust_remote_code=job.trust_remote_code, local_files_only=True
    )
    if wanted.settings.attention_weight:
        network.set_attn_implementation("eager")  # the others give no attentions
    network.distill_matching = matching = Matching(network.config, teacher, wanted.settings)
    return matching


class Matching(nn.Module):  # type: ignore[misc, unused-ignore]
    """The losses, with a projection [teacher's width, student's width] for each layer where the
    widths differ."""

    def __init__(self, student: Any, teacher: Any, settings: Distill) -> None:
        super().__init__()
        own, other = student.get_text_config(), teacher.get_text_config()
        self.wants_hidden = settings.hidden_weight > 0
        self.wants_attention = settings.attention_weight > 0
        self._layers = layer_map(own.num_hidden_layers, other.num_hidden_layers, settings.layer_map)
        self.projections = nn.ModuleList()
        if self.wants_hidden and own.hidden_size != other.hidden_size:
            for _ in self._layers:
                projection = nn.Linear(own.hidden_size, other.hidden_size, bias=False)
                nn.init.orthogonal_(projection.weight)
                self.projections.append(projection)

    @property
    def wanted(self) -> dict[str, bool]:
        """What both networks must put out."""
        return {
            "output_hidden_states": self.wants_hidden,
            "output_attentions": self.wants_attention,
        }

    def forward(self, student: Any, teacher: Any, valid: Tensor) -> tuple[Tensor, Tensor]:
        """Losses of hidden states and attentions, means over layers and the places that are
        `valid` [B, T]; zero where not wanted."""
        nothing = torch.zeros((), device=valid.device)
        hidden = attention = nothing
        if self.wants_hidden:
            hidden = self._mean(self._hidden, student.hidden_states[1:], teacher.hidden_states[1:],
                                valid)  # fmt: skip
        if self.wants_attention:
            attention = self._mean(_attention, student.attentions, teacher.attentions, valid)
        return hidden, attention

    def _mean(
        self, loss: Any, student: Sequence[Tensor], teacher: Sequence[Tensor], valid: Tensor
    ) -> Tensor:
        losses = [
            loss(number, student[number], teacher[layer].detach(), valid)
            for number, layer in enumerate(self._layers)
        ]
        return torch.stack(losses).mean()

    def _hidden(self, number: int, own: Tensor, other: Tensor, valid: Tensor) -> Tensor:
        """Squared error relative to the squares of the teacher's states [B, T, width]."""
        own, other = own[valid].float(), other[valid].float()
        if len(self.projections):
            own = self.projections[number](own)
        return (own - other).square().sum() / other.square().sum().clamp(min=_LEAST)


def _attention(_number: int, own: Tensor, other: Tensor, valid: Tensor) -> Tensor:
    """KL(teacher ‖ student) of the rows of the attentions [B, heads, T, T]; means over heads where
    their numbers differ."""
    own, other = own.float(), other.float()
    if own.shape[1] != other.shape[1]:
        own, other = own.mean(1, keepdim=True), other.mean(1, keepdim=True)
    kl = (other * (other.clamp(min=_LEAST).log() - own.clamp(min=_LEAST).log())).sum(-1)
    return kl.mean(1)[valid].mean()


def valid_places(batch: dict[str, Any]) -> Tensor:
    """Places [B, T] that are no padding; of packed rows those that are learned."""
    mask: Tensor = batch["attention_mask"]
    if mask.ndim == 2:
        return mask.bool()
    labels: Tensor = batch["labels"]
    return labels >= 0
