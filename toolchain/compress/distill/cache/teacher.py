"""The teacher that a cache stands for: targets are read by row, no network runs.

    teacher = CachedTeacher(open_store(folder), temperature=2.0, kind="causal")
    targets = teacher.targets(batch)
"""

from __future__ import annotations

from typing import Any

import torch

from common.errors import UserError
from toolchain.compress.distill.cache.facts import SPLITS, Facts
from toolchain.compress.distill.cache.store import Store
from toolchain.compress.distill.learned import learned
from toolchain.compress.distill.losses import Sparse


class CachedTeacher:
    """A `Teacher` over a cache, for runs at one temperature."""

    def __init__(self, store: Store, temperature: float) -> None:
        self._store, self._temperature = store, temperature
        self._record = store.facts.record

    def targets(self, batch: dict[str, Any]) -> Sparse:
        """Ids and log-probabilities [N, k] and the others' mass [N], softened."""
        stored = self._store.read(batch["rows"].tolist())
        device = batch["labels"].device
        places = len(learned(batch, self._store.facts.kind).positions)
        if len(stored) != places:
            raise UserError(
                f"the teacher cache holds {len(stored)} places of these rows, the batch has "
                f"{places}",
                "write the cache again for these rows",
            )
        parts = self._record.decode(stored, self._temperature)
        return Sparse(*(torch.from_numpy(part).to(device) for part in parts))


def require_fit(
    facts: Facts,
    *,
    teacher: str | None,
    vocabulary: str,
    rows: dict[str, str],
    settings: dict[str, Any],
    temperature: float,
) -> None:
    """Raise `UserError` when the cache is of another teacher, tokenizer or data set than a training
    that has this `vocabulary`, these digests of encoded `rows` by split, and these `settings` of
    rows."""
    if teacher is not None and facts.teacher != teacher:
        raise _other("teacher", "name the teacher that wrote it, or none")
    if facts.vocabulary != vocabulary:
        raise _other("tokenizer", "its tokens have other ids than the student's")
    changed = [f"{name} {getattr(facts, name)} (here {value})"
               for name, value in settings.items() if getattr(facts, name) != value]  # fmt: skip
    if changed:
        raise UserError(
            f"the teacher cache was written with {', '.join(changed)}",
            "set the same here, or write the cache again",
        )
    for split in SPLITS:
        if facts.splits[split].digest != rows[split]:
            raise _other("data set", f"the {split} rows are not those that the teacher read")
    facts.record.index_of(temperature)


def _other(what: str, why: str) -> UserError:
    return UserError(
        f"the teacher cache is of another {what}",
        f"{why}; or write a cache for this training: edgeforge teacher-cache",
    )
