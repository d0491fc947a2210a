"""What a search is asked for: the objective, the budgets, what may vary, and how it is measured."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

Direction = Literal["maximize", "minimize"]
OBJECTIVES: dict[str, tuple[str, Direction]] = {
    "decode": ("decode_tokens_per_sec", "maximize"),
    "size": ("size_bytes", "minimize"),
    "memory": ("memory_bytes", "minimize"),
    "kld": ("kld", "minimize"),
}
"""Objective → the figure of a candidate that it is about, and the direction."""

PLANNED, HERE, DEVICE = "planned", "here", "device"
DEFAULT_TRIALS = 40
DEFAULT_STUDY = "search"


@dataclass(frozen=True)
class Limit:
    """A budget: a figure of a candidate and how far it may go. `most` says that it is a maximum."""

    name: str
    figure: str
    value: float
    most: bool

    def violation(self, figure: float) -> float:
        """How far beyond the limit, as a share of it; 0 or less is within."""
        beyond = figure - self.value if self.most else self.value - figure
        return beyond / abs(self.value)


_LIMITS = {
    "max_kld": ("kld", True),
    "max_bytes": ("size_bytes", True),
    "max_memory_bytes": ("memory_bytes", True),
    "min_decode": ("decode_tokens_per_sec", False),
}


@dataclass(frozen=True)
class Budget:
    """Limits of what is taken; None where there is none. KLD in nats against the unquantized
    original, sizes in bytes, decode in tokens/s as the search ranks it."""

    max_kld: float | None = None
    max_bytes: int | None = None
    max_memory_bytes: int | None = None
    min_decode: float | None = None

    def limits(self) -> tuple[Limit, ...]:
        """Those that are set."""
        set_ones = {name: value for name, value in asdict(self).items() if value is not None}
        return tuple(
            Limit(name, _LIMITS[name][0], float(value), _LIMITS[name][1])
            for name, value in set_ones.items()
        )

    def broken(self, figures: Mapping[str, Any]) -> tuple[Limit, ...]:
        """The limits that these figures break; a figure that is not known breaks none."""
        return tuple(
            limit
            for limit in self.limits()
            if figures.get(limit.figure) is not None
            and limit.violation(float(figures[limit.figure])) > 0
        )


@dataclass(frozen=True)
class Fidelity:
    """Tokens of the search's text that a candidate is scored on: few first, all of them where those
    leave hope."""

    quick_tokens: int = 512
    tokens: int = 4096
    context_tokens: int = 512


@dataclass(frozen=True)
class Settings:
    """Everything that decides what a study finds, but for model, target and texts. `speed` says
    where decode speeds come from: the planner, this machine, the device."""

    objective: str
    budget: Budget
    speed: str
    fidelity: Fidelity = Fidelity()
    seed: int = 0

    @property
    def figure(self) -> str:
        """The figure that is optimized."""
        return OBJECTIVES[self.objective][0]

    @property
    def direction(self) -> Direction:
        return OBJECTIVES[self.objective][1]

    @property
    def maximizes(self) -> bool:
        return self.direction == "maximize"

    @property
    def needs_speed(self) -> bool:
        """Whether a speed has to be measured: one that decides, or that of a device which was
        named."""
        wanted = self.objective == "decode" or self.budget.min_decode is not None
        return self.speed == DEVICE or (self.speed == HERE and wanted)
