"""The teacher that a cache stands for: targets are read by row, no network runs.

teacher = CachedTeacher(open_store(folder), temperature=2.0, kind="causal")
targets = teacher.targets(batch)
"""

from __future__ import annotations

from typing import Any

import torch

from common.errors import UserError
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
