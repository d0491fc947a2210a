"""One line of the ledger, and what two lines say together.

Compression ratio is the original's bytes over these. Efficiency is the share of the original's
accuracy that is left, times the compression ratio, times the speed over the original's: 1 for the
original, more is better. It extends accuracy per parameter (information density, Canziani et al.,
arXiv:1605.07678) by speed, as NetScore does with the operations of an inference (Wong,
arXiv:1806.05512).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

ORIGINAL = "original"
COMPANION_TASK, DATA_TASK = "checkpoint", "data"
_FP32_BITS = 32


@dataclass(frozen=True)
class Planned:
    """What the planner expects on the target, at its context."""

    context_tokens: int
    memory_bytes: int
    decode_tokens_per_sec: float


@dataclass(frozen=True)
class Entry:
    """The model after a stage. `result` names the stage's folder, whose cost stands in the build's
    log. `kld_mean` (nats) and `top1_agreement` are against the original on `positions` tokens of
    held-out text, the perplexity is on the same; None where nothing was measured or the vocabulary
    is another. `tasks` are scores by task and metric. `kept` is False for a stage that was rolled
    back."""

    stage: str
    result: str
    parameters: int
    size_bytes: int
    bits_per_weight: float
    planned: Planned | None = None
    perplexity: float | None = None
    perplexity_stderr: float | None = None
    kld_mean: float | None = None
    top1_agreement: float | None = None
    positions: int | None = None
    tasks: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    kept: bool = True

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def read_entry(data: Mapping[str, Any]) -> Entry:
    """The entry that `as_json` wrote; what was added to it is left out."""
    names = {f.name for f in dataclasses.fields(Entry)}
    planned = Planned(**data["planned"]) if data["planned"] else None
    return Entry(**{k: v for k, v in data.items() if k in names and k != "planned"},
                 planned=planned)  # fmt: skip


def compression_ratio(entry: Entry, original: Entry) -> float:
    """Bytes of the original's weights over these."""
    return original.size_bytes / entry.size_bytes


def fp32_ratio(entry: Entry, original: Entry) -> float:
    """The same against the original in float32, as papers count it."""
    return original.parameters * _FP32_BITS / 8 / entry.size_bytes


def tasks_in_order(tasks: Mapping[str, Any]) -> list[str]:
    """Names of tasks, the one first that the exported file is asked: held-out rows of the data,
    where there are some. Files keep no order."""
    return sorted(tasks, key=lambda name: name != DATA_TASK)


def share_kept(entry: Entry, original: Entry) -> float | None:
    """The task score over the original's: of the first task and metric that both were asked."""
    for task in tasks_in_order(original.tasks):
        for metric, theirs in original.tasks[task].items():
            mine = entry.tasks.get(task, {}).get(metric)
            if mine is not None:
                return mine / theirs if theirs else None
    return None


def speed_up(entry: Entry, original: Entry) -> float | None:
    """Expected decode speed on the target over the original's."""
    if entry.planned is None or original.planned is None:
        return None
    return entry.planned.decode_tokens_per_sec / original.planned.decode_tokens_per_sec


def efficiency(entry: Entry, original: Entry) -> float | None:
    """(accuracy ÷ size) × speed over the original's; None without a task or a plan."""
    share, speed = share_kept(entry, original), speed_up(entry, original)
    if share is None or speed is None:
        return None
    return share * compression_ratio(entry, original) * speed


def changes(entry: Entry, other: Entry) -> dict[str, float | None]:
    """This entry against another one: ratios for what has a size, differences for quality."""
    pairs = {
        "parameters_ratio": (entry.parameters, other.parameters),
        "size_ratio": (entry.size_bytes, other.size_bytes),
        "perplexity_ratio": (entry.perplexity, other.perplexity),
        "memory_ratio": (
            entry.planned.memory_bytes if entry.planned else None,
            other.planned.memory_bytes if other.planned else None,
        ),
    }
    kld = None
    if entry.kld_mean is not None and other.kld_mean is not None:
        kld = entry.kld_mean - other.kld_mean
    return {
        **{name: a / b if a is not None and b else None for name, (a, b) in pairs.items()},
        "task_share": share_kept(entry, other),
        "speed_up": speed_up(entry, other),
        "kld_mean_change": kld,
    }
