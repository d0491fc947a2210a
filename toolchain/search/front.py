"""Which of the measured points matter: the Pareto front, the best within budget, and what of the
budget none meets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.search.settings import Limit, Settings
from toolchain.search.space import Space

Record = Mapping[str, Any]
_SIZE = "size_bytes"
_CONTEXT = "context_tokens"


def axes(settings: Settings, space: Space) -> tuple[tuple[str, bool], ...]:
    """What the front trades: (figure, whether more is better). Quality, the objective (size where
    that is quality itself), and the context where it varies."""
    own = (_SIZE, False) if settings.objective == "kld" else (settings.figure, settings.maximizes)
    more = ((_CONTEXT, True),) if _CONTEXT in space.open else ()
    return (("kld", False), own, *more)


def front(records: Sequence[Record], wanted: Sequence[tuple[str, bool]]) -> list[Record]:
    """Records that no other is better than in everything, by falling KLD."""
    known = [r for r in records if all(r["figures"].get(name) is not None for name, _ in wanted)]
    kept: list[Record] = []
    for record in known:
        own = _signed(record, wanted)
        beaten = any(
            other != own and all(a <= b for a, b in zip(other, own, strict=True))
            for other in (_signed(r, wanted) for r in known)
        )
        if not beaten and all(_signed(k, wanted) != own for k in kept):
            kept.append(record)
    return sorted(kept, key=lambda record: -float(record["figures"]["kld"]))


def within(records: Sequence[Record], settings: Settings) -> list[Record]:
    """Fully measured records that break no limit, the best first: by the objective, then by KLD,
    then by size."""
    needed = {"kld", settings.figure, *(limit.figure for limit in settings.budget.limits())}
    good = [
        record
        for record in records
        if all(record["figures"].get(name) is not None for name in needed)
        and not settings.budget.broken(record["figures"])
    ]
    sign = -1.0 if settings.maximizes else 1.0
    return sorted(
        good,
        key=lambda r: (
            sign * r["figures"][settings.figure],
            r["figures"]["kld"],
            r["figures"][_SIZE],
        ),
    )


def unmet(records: Sequence[Record], settings: Settings) -> list[str]:
    """Which limits no record meets, each with the nearest; or, where each is met by some record,
    that none meets all, with the nearest to that."""
    lines = []
    for limit in settings.budget.limits():
        known = [r for r in records if r["figures"].get(limit.figure) is not None]
        if not known:
            lines.append(f"{limit.name} {limit.value:g}: nothing was measured against it")
            continue
        nearest = min(known, key=lambda r: limit.violation(r["figures"][limit.figure]))
        if limit.violation(nearest["figures"][limit.figure]) > 0:
            lines.append(f"{limit.name} {limit.value:g}: nearest {_told(nearest, limit)}")
    if lines or not records:
        return lines
    limits = settings.budget.limits()
    whole = [r for r in records if all(r["figures"].get(x.figure) is not None for x in limits)]
    if not whole:
        return ["no point was measured in everything that the budget names"]
    nearest = min(whole, key=lambda r: _beyond(r, limits))
    told = ", ".join(f"{x.name} {x.value:g}: {_told(nearest, x)}" for x in limits)
    return [f"each limit is met by some point, but all together by none; nearest: {told}"]


def _beyond(record: Record, limits: Sequence[Limit]) -> float:
    return sum(max(0.0, limit.violation(record["figures"][limit.figure])) for limit in limits)


def _told(record: Record, limit: Limit) -> str:
    return f"{record['figures'][limit.figure]:.6g} ({record['text']})"


def _signed(record: Record, wanted: Sequence[tuple[str, bool]]) -> tuple[float, ...]:
    """The figures so that less is better."""
    return tuple((-1 if more else 1) * float(record["figures"][name]) for name, more in wanted)
