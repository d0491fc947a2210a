"""The teacher: what it would have said at every learned place of a batch.

    teacher = open_teacher(job, device)
    targets = teacher.targets(batch)

A batch is that of the student, with `labels` and `rows`, the numbers of its training rows (-1: no
row, nothing is learned there).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch

from toolchain.compress.distill.learned import flat, inputs_of, learned
from toolchain.compress.distill.losses import Dense, Targets
from toolchain.compress.distill.pair import class_columns
from toolchain.train.job import Kind, TrainJob


class Teacher(Protocol):
    """Gives the targets of the N learned places of a batch in row-major order (`learned`)."""

    def targets(self, batch: dict[str, Any]) -> Targets: ...


class LiveTeacher:
    """A network in memory. `columns` are its classes in the student's order, None for a language
    model."""

    def __init__(self, network: Any, kind: Kind, columns: Sequence[int] | None = None) -> None:
        self.network, self._kind, self._columns = network, kind, columns

    @torch.no_grad()  # type: ignore[untyped-decorator, unused-ignore]
    def targets(self, batch: dict[str, Any]) -> Dense:
        """Logits [N, V]."""
        return self.targets_of(self.forward(batch), batch)

    @torch.no_grad()  # type: ignore[untyped-decorator, unused-ignore]
    def forward(self, batch: dict[str, Any], **wanted: bool) -> Any:
        """The network's output, with hidden states and attentions where `wanted`."""
        return self.network(**inputs_of(batch), **wanted)

    def targets_of(self, output: Any, batch: dict[str, Any]) -> Dense:
        """Logits [N, V] of an output."""
        logits = flat(output.logits).index_select(0, learned(batch, self._kind).positions)
        return Dense(logits if self._columns is None else logits[:, list(self._columns)])


def open_teacher(job: TrainJob, device: torch.device) -> Teacher:
    """The teacher of a job: its cache, or loaded. Raises `UserError` when it does not load."""
    wanted = job.distillation
    assert wanted is not None
    if wanted.cache is not None:
        from toolchain.compress.distill.cache.store import open_store
        from toolchain.compress.distill.cache.teacher import CachedTeacher

        return CachedTeacher(open_store(wanted.cache), wanted.settings.temperature)
    network, columns = _loaded(job, device)
    if wanted.settings.universal:
        from toolchain.compress.distill.universal.teacher import UniversalTeacher

        return UniversalTeacher(job, network, columns)
    return LiveTeacher(network, job.kind, columns)


def _loaded(job: TrainJob, device: torch.device) -> tuple[Any, Sequence[int] | None]:
    from toolchain.train.network import computes_in_bf16, load_frozen

    wanted = job.distillation
    assert wanted is not None and wanted.teacher is not None
    network = load_frozen(
        wanted.teacher,
        job.kind,
        wanted.settings.teacher_quantization,
        bf16=computes_in_bf16(job.settings),
        trust_remote_code=job.trust_remote_code,
    )
    if wanted.settings.attention_weight:
        network.set_attn_implementation("eager")  # the others give no attentions
    if wanted.settings.teacher_quantization == "none":
        network.to(device)
    network.config.use_cache = False
    columns = class_columns(network.config.id2label, job.labels) if job.labels else None
    return network, columns
