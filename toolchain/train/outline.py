"""A run before it begins: rows encoded, layers counted, memory estimated; all that can be refused
without training is refused here."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.train.encoded import DataFacts, SplitFacts, data_kind, encode_data
from toolchain.train.examples import labels_of
from toolchain.train.memory import Memory, estimate_memory, require_memory
from toolchain.train.points import Points, plan_points
from toolchain.train.settings import Finetune

_DEFAULT_MAX_TOKENS = 2048


@dataclass(frozen=True)
class Outline:
    """What will be trained on what. `trainable` and `parameters` count weights; `warnings` are for
    people."""

    data: DataFacts
    points: Points
    trainable: int
    parameters: int
    memory: Memory
    pad_token_id: int
    warnings: tuple[str, ...]

    @property
    def share(self) -> float:
        """Share of the weights that is trained."""
        return self.trainable / self.parameters

    def lines(self, settings: Finetune) -> list[str]:
        """What is said before work begins."""
        data, points = self.data, self.points
        lines = [f"warning: {warning}" for warning in self.warnings]
        if data.labels:
            lines.append(f"classes ({len(data.labels)}): {', '.join(data.labels[:20])}")
        lines.append(_split_line("train", data.train))
        if data.validation.rows:
            lines.append(_split_line("validation", data.validation))
        lines.append(
            f"trainable: {self.trainable:,} of {self.parameters:,} weights ({self.share:.2%})"
        )
        lines.append(self.memory.line())
        lines.append(
            f"steps: {points.total_steps} of {settings.rows_per_step} rows "
            f"({points.steps_per_epoch} an epoch)"
        )
        return lines

    def as_json(self) -> dict[str, Any]:
        """The same for programs."""
        return {
            "kind": self.data.kind,
            "labels": list(self.data.labels),
            "train_rows": self.data.train.rows,
            "train_tokens": self.data.train.tokens,
            "validation_rows": self.data.validation.rows,
            "truncated_rows": self.data.train.truncated,
            "trainable_parameters": self.trainable,
            "total_parameters": self.parameters,
            "trainable_share": round(self.share, 6),
            "steps": self.points.total_steps,
            "memory_bytes": self.memory.total,
            "warnings": list(self.warnings),
        }


def outline(
    source: Artifact,
    data: Path,
    settings: Finetune,
    folder: Path,
    *,
    taught: bool = False,
    teacher_bytes: int = 0,
    trust_remote_code: bool,
) -> Outline:
    """Settle a run on the prepared `data`; the encoded rows are left in `folder`. One that is
    `taught` learns from texts without a label too; its teacher takes `teacher_bytes` of a process.
    Raises `UserError` for faulty rows, layers that are not there, and too little memory."""
    from toolchain.hf import load_tokenizer
    from toolchain.train.network import computes_in_bf16, empty_network, quiet_libraries

    quiet_libraries()
    kind = data_kind(data)
    labels = labels_of(data / "train.jsonl") if kind == "classification" else ()
    network = empty_network(
        source.path, kind, labels, settings, trust_remote_code=trust_remote_code
    )
    _require_packable(network, settings)
    tokenizer = load_tokenizer(source.path, trust_remote_code=trust_remote_code)
    limit = max_tokens_of(source.path, tokenizer, settings)
    found = encode_data(data, folder, tokenizer, settings, limit, unlabelled=taught)
    points = plan_points(found.train.rows, settings, validates=found.validation.rows > 0)
    memory = estimate_memory(
        network,
        settings,
        longest=found.train.longest,
        bf16=computes_in_bf16(settings),
        teacher_bytes=teacher_bytes,
    )
    require_memory(memory, settings)
    return Outline(
        data=found,
        points=points,
        trainable=sum(p.numel() for p in network.parameters() if p.requires_grad),
        parameters=sum(p.numel() for p in network.parameters()),
        memory=memory,
        pad_token_id=pad_token_of(tokenizer),
        warnings=tuple(_warnings(source, found, settings)),
    )


def max_tokens_of(checkpoint: Path, tokenizer: Any, settings: Finetune) -> int:
    """As set, else the model's context within `_DEFAULT_MAX_TOKENS`."""
    context = inspect(checkpoint).context_tokens
    own = tokenizer.model_max_length  # a huge number where the tokenizer sets none
    context = min(own, context) if context else (own if own < 1 << 24 else None)
    if settings.max_tokens is None:
        return min(context or _DEFAULT_MAX_TOKENS, _DEFAULT_MAX_TOKENS)
    if context is not None and settings.max_tokens > context:
        raise UserError(
            f"max_tokens {settings.max_tokens} exceeds the model's context: {context} tokens",
            f"give at most {context}",
        )
    return settings.max_tokens


def pad_token_of(tokenizer: Any) -> int:
    """What fills rows up. Padding is masked, so any token will do where there is none for it."""
    for token in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _require_packable(network: Any, settings: Finetune) -> None:
    import inspect as python

    base = network.get_base_model() if hasattr(network, "get_base_model") else network
    if settings.packing and "position_ids" not in python.signature(base.forward).parameters:
        raise UserError(
            f"{type(base).__name__} takes no positions, so packed examples would run together",
            "leave packing off",
        )


def _warnings(source: Artifact, found: DataFacts, settings: Finetune) -> list[str]:
    warnings = []
    if found.train.truncated:
        warnings.append(
            f"{found.train.truncated} of {found.train.examples} training rows are longer than "
            f"{found.max_tokens} tokens and are cut (max_tokens)"
        )
    if found.left_out:
        warnings.append(
            f"{found.left_out} texts without a label are left out here: a teacher can judge them "
            "(edgeforge distill)"
        )
    if not found.validation.rows:
        told = "no validation rows: the result is that of the last step"
        if settings.early_stopping_patience:
            told += ", and early stopping has nothing to go by"
        warnings.append(told)
    if found.labels and not any("classifier" in n or "score." in n for n in _tensor_names(source)):
        warnings.append("the model has no classification head yet; a new one is trained")
    return warnings


def _tensor_names(source: Artifact) -> list[str]:
    return [tensor.name for tensor in inspect(source.path).tensors]


def _split_line(name: str, split: SplitFacts) -> str:
    packed = f" in {split.rows} packed rows" if split.rows != split.examples else ""
    learned = f", {split.learned:,} of them learned" if split.learned != split.examples else ""
    return (
        f"{name}: {split.examples} examples{packed}, {split.tokens:,} tokens{learned}, "
        f"the longest row {split.longest}"
    )
