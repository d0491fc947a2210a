"""At which steps a run logs, validates and saves: settled before it starts, whatever happens then.

Every validation and every checkpoint falls on a logged step, so that a run that goes on from a
checkpoint logs what an uninterrupted one does.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from toolchain.train.settings import Finetune

_MOST_LOGGED = 1000


@dataclass(frozen=True)
class Points:
    """Steps count from 1. `evaluate` is part of `save`; both end with the last step."""

    total_steps: int
    steps_per_epoch: int
    log_every: int
    evaluate: frozenset[int]
    save: frozenset[int]

    def logs(self, step: int) -> bool:
        """Whether the step's loss is written down."""
        return step % self.log_every == 0 or step == self.total_steps


def plan_points(rows: int, settings: Finetune, *, validates: bool) -> Points:
    """The points of a run over `rows` rows an epoch; without validation rows none is evaluated."""
    batches = math.ceil(rows / settings.batch_size)
    per_epoch = math.ceil(batches / settings.accumulate)
    total = settings.max_steps or max(1, math.ceil(settings.epochs * per_epoch))
    log_every = math.ceil(total / _MOST_LOGGED)
    evaluate = _spread(total, per_epoch / settings.evals_per_epoch, log_every)
    save = _spread(total, per_epoch / settings.saves_per_epoch, log_every)
    return Points(
        total, per_epoch, log_every, evaluate if validates else frozenset(), save | evaluate
    )


def _spread(total: int, every: float, log_every: int) -> frozenset[int]:
    """The end of every part of `every` steps, moved to the logged step behind it."""
    parts = math.ceil(total / every)
    raw = (math.ceil(round(part * every, 6)) for part in range(1, parts + 1))
    steps = {min(total, math.ceil(step / log_every) * log_every) for step in raw if step > 0}
    return frozenset(steps | {total})
