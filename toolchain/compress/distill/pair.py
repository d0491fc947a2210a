"""Whether a teacher can teach a student: their tokens, their vocabularies, their classes.

Checked before any work; all that is read are configs and tokenizers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from toolchain.checkpoint.inspect import inspect
from toolchain.compress.distill.settings import Distill
from toolchain.train.job import Kind

_SHOWN = 5


def require_pair(
    student: Path,
    teacher: Path,
    kind: Kind,
    labels: Sequence[str],
    settings: Distill,
    *,
    trust_remote_code: bool,
) -> None:
    """Raise `UserError` that explains why the two do not go together; with `universal` they may
    have different tokens."""
    if not settings.universal:
        require_same_tokens(student, teacher, trust_remote_code=trust_remote_code)
    if settings.on_policy and kind == "classification":
        raise UserError("a classifier writes nothing", "leave on_policy out")
    if settings.layer_map:
        from toolchain.compress.distill.matching import layer_map

        own, other = (inspect(path).config["num_hidden_layers"] for path in (student, teacher))
        layer_map(own, other, settings.layer_map)
    if kind == "classification":
        _require_classes(teacher, labels, trust_remote_code)


def require_distinct(student: str, teacher: str) -> None:
    """Raise `UserError` when the two digests are those of one checkpoint."""
    if student == teacher:
        raise UserError(
            "teacher and student are the same checkpoint, so there is nothing to learn",
            "name a teacher or a student (distill.teacher, distill.student), or put a stage that "
            "changes the model (prune) before distill",
        )


def require_same_tokens(student: Path, teacher: Path, *, trust_remote_code: bool) -> None:
    """Raise `UserError` that says which tokens differ."""
    from toolchain.hf import load_tokenizer

    own, other = (
        load_tokenizer(path, trust_remote_code=trust_remote_code).get_vocab()
        for path in (student, teacher)
    )
    if own != other:
        raise UserError(
            f"teacher and student have different vocabularies ({len(other)} and {len(own)} tokens"
            f"; {_difference(own, other)}), so the teacher's probabilities are of other tokens",
            "take a teacher of the same family; distil before prune-vocab; or set universal: true",
        )
    for path, role in ((student, "student"), (teacher, "teacher")):
        size = inspect(path).vocab_size
        if size is not None and size < len(own):
            raise UserError(
                f"the {role} has logits for {size} tokens, its tokenizer has {len(own)}",
                "check the checkpoint",
            )


def _difference(own: dict[str, int], other: dict[str, int]) -> str:
    """Tokens that show it."""
    lone = [token for token in (*own, *other) if own.get(token) != other.get(token)]
    return "for example " + ", ".join(repr(token) for token in sorted(set(lone))[:_SHOWN])


def _require_classes(teacher: Path, labels: Sequence[str], trust_remote_code: bool) -> None:
    from transformers import AutoConfig

    config: Any = AutoConfig.from_pretrained(
        teacher, trust_remote_code=trust_remote_code, local_files_only=True
    )
    names = config.architectures or [""]
    if not names[0].endswith("ForSequenceClassification"):
        raise UserError(
            f"the teacher {names[0]} has no classification head",
            "fine-tune it on the rows first: edgeforge finetune --model TEACHER --data ROWS",
        )
    class_columns(config.id2label, labels)


def class_columns(id2label: dict[int, str], labels: Sequence[str]) -> list[int]:
    """Where a classifier's head has the classes. Raises `UserError` when it has other classes."""
    places = {str(name): int(number) for number, name in id2label.items()}
    if set(places) != set(labels):
        raise UserError(
            f"the teacher's classes ({', '.join(places)}) are not those of the rows "
            f"({', '.join(labels)})",
            "fine-tune the teacher on rows with the same labels first",
        )
    return [places[label] for label in labels]
