"""What a run leaves: single measurements, and the result that table, files and page show."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

FP32, INT8 = "onnx-fp32", "onnx-int8"


@dataclass(frozen=True)
class Measurement:
    """One figure. `metric` carries its unit; `round` and `turn` say when it was taken."""

    phase: str  # sweep, request, serve, encode
    engine: str
    metric: str
    value: float
    round: int = 0
    turn: int = 0
    threads: int = 0
    clients: int | None = None
    batch: int | None = None
    sequence: int | None = None

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class EngineSpec:
    """An engine and its model: `name` in all tables, `engine` a row of `runtimes.timed.ENGINES`."""

    name: str
    engine: str
    path: Path
    dtype: str = "float32"
    file_bytes: int = 0
    memory_bytes: int = 0  # what loading it takes, estimated


@dataclass
class EngineResult:
    """One engine's figures; `figures` maps metric names to numbers or spreads."""

    name: str
    engine: str
    file_bytes: int
    threads: int
    cores: Sequence[int]
    facts: Mapping[str, Any] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "cores": list(self.cores)}


@dataclass(frozen=True)
class Fault:
    """Why the benchmark fails: what was to be reached, and what was."""

    what: str
    figure: float
    limit: float
    text: str


@dataclass
class Result:
    """Everything of a run."""

    model: str
    kind: str  # decoder or encoder
    settings: Mapping[str, Any]
    machine: Mapping[str, Any]
    engines: list[EngineResult]
    measurements: list[Measurement]
    ratios: dict[str, Any]
    quality: dict[str, Any] | None = None
    faults: list[Fault] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        return not self.faults

    def engine(self, name: str) -> EngineResult | None:
        return next((engine for engine in self.engines if engine.name == name), None)

    def as_json(self) -> dict[str, Any]:
        """The summary; single measurements are in `results.jsonl`."""
        return {
            "model": self.model,
            "kind": self.kind,
            "passed": self.passed,
            "faults": [asdict(fault) for fault in self.faults],
            "settings": dict(self.settings),
            "machine": dict(self.machine),
            "engines": [engine.as_json() for engine in self.engines],
            "ratios": self.ratios,
            "quality": self.quality,
            "notes": list(self.notes),
        }
