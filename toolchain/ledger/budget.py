"""What a build may cost, held against the ledger after every stage.

`max_total_kld` and `min_total_task_share` are against the original, `max_file_bytes` is the file's
that is exported.
(`max_kld` and `min_task_share`, what quantization alone may cost, are the export's.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from common.errors import UserError
from toolchain.ledger.entry import Entry, share_kept

KLD, TASK_SHARE, FILE_BYTES = "max_total_kld", "min_total_task_share", "max_file_bytes"


@dataclass(frozen=True)
class Broken:
    """A budget that a stage broke. `measured` None: it cannot be measured after this stage."""

    stage: str
    budget: str
    measured: float | None
    allowed: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def text(self) -> str:
        """What was measured and what is allowed."""
        least = self.budget.startswith("min")
        allowed = f"{self.allowed:g} at {'least' if least else 'most'} is allowed"
        if self.measured is None:
            return f"quality.{self.budget} cannot be measured after it; {allowed}"
        return f"quality.{self.budget}: measured {self.measured:.4g}, {allowed}"


def broken(
    entry: Entry, original: Entry, budget: Mapping[str, float], *, exported: bool = False
) -> tuple[Broken, ...]:
    """The budgets that this entry breaks. A task score is held against its budget once it is
    measured, a file's size once there is the file."""
    found = []
    if KLD in budget and not _at_most(entry.kld_mean, budget[KLD]):
        found.append((KLD, entry.kld_mean))
    share = share_kept(entry, original)
    if TASK_SHARE in budget and share is not None and share < budget[TASK_SHARE]:
        found.append((TASK_SHARE, share))
    if exported and TASK_SHARE in budget and share is None:
        found.append((TASK_SHARE, None))
    if exported and entry.size_bytes > budget.get(FILE_BYTES, entry.size_bytes):
        found.append((FILE_BYTES, entry.size_bytes))
    return tuple(Broken(entry.stage, name, value, budget[name]) for name, value in found)


def stopped(faults: tuple[Broken, ...], nearest: Entry | None, *, rolled: bool) -> UserError:
    """The error that ends a build; `nearest` is the last entry within budget."""
    stage = faults[0].stage
    last = "nothing before it is within budget"
    if nearest is not None:
        last = f"the last model within budget is that of stage '{nearest.stage}'"
        if nearest.kld_mean is not None:
            last += f" (KLD {nearest.kld_mean:.4g})"
    names = " and ".join(f"quality.{fault.budget}" for fault in faults)
    back = "" if rolled or nearest is None else ", or set quality.on_broken: roll_back"
    return UserError(
        f"stage '{stage}' breaks the budget: {'; '.join(fault.text() for fault in faults)}",
        f"{last}; change {names} in the recipe{back}",
    )


def _at_most(value: float | None, limit: float) -> bool:
    return value is not None and value <= limit
