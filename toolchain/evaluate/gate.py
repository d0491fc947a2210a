"""A gate: one thing that must hold before a file ships, with its figure and its limit."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from common.errors import UserError


@dataclass(frozen=True)
class Gate:
    """`figure` is what was measured and `limit` what it may be (`None`: the gate does not apply).

    `detail` says in words what was compared or, when the gate failed, the first difference; `mend`
    what to do about a failure.
    """

    name: str
    figure: float | None
    limit: float | None
    passed: bool
    detail: str
    mend: str = ""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def __str__(self) -> str:
        verdict = "passed" if self.passed else "FAILED"
        return f"{self.name}: {verdict}, figure {self.figure}, limit {self.limit}: {self.detail}"


class ParityError(UserError):
    """The file is not the model that the checkpoint is. `gates` are those that failed."""

    def __init__(self, file: str, gates: Iterable[Gate]) -> None:
        self.gates = tuple(gates)
        names = ", ".join(gate.name for gate in self.gates)
        super().__init__(
            f"{file} is not the same model as its checkpoint: {names}",
            "; ".join(dict.fromkeys(gate.mend for gate in self.gates if gate.mend)),
            details=[str(gate) for gate in self.gates],
        )


def require(file: str, gates: Iterable[Gate]) -> None:
    """Raise `ParityError` when a gate failed."""
    failed = [gate for gate in gates if not gate.passed]
    if failed:
        raise ParityError(file, failed)
