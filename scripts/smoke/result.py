"""What is printed and written as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .checks import FAILED, PASSED, Check
from .engine import PassedOver


@dataclass
class Result:
    """What is printed and written as JSON."""

    model: str = ""
    target: str = ""
    checks: list[Check] = field(default_factory=list)
    machine: dict[str, Any] = field(default_factory=dict)
    engine: dict[str, Any] = field(default_factory=dict)
    engines_passed_over: list[PassedOver] = field(default_factory=list)
    threads: dict[str, Any] = field(default_factory=dict)
    speed: dict[str, Any] = field(default_factory=dict)
    answers: list[dict[str, Any]] = field(default_factory=list)

    @property
    def verdict(self) -> str:
        return FAILED if any(check.status == FAILED for check in self.checks) else PASSED

    def as_json(self) -> dict[str, Any]:
        return {"schema": 1, "verdict": self.verdict, **asdict(self)}
