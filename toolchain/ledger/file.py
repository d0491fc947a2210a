"""`ledger.json`: the ledger of a bundle, its changes written out.

The bundle's own has only what the same inputs give again; `log/ledger.json` also has each stage's
own time and memory.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.files import read_json
from toolchain.ledger.entry import (
    Entry,
    changes,
    compression_ratio,
    efficiency,
    fp32_ratio,
    read_entry,
)

if TYPE_CHECKING:
    from toolchain.ledger.keep import Ledger
    from toolchain.pipeline import StageEvent

FILE = "ledger.json"
SCHEMA = 1


def as_json(ledger: Ledger, budget: Mapping[str, float]) -> dict[str, Any]:
    """The whole ledger as plain values."""
    return {
        "schema": SCHEMA,
        "edgeforge": version("edgeforge"),
        "budget": dict(budget),
        "rolled_back": [fault.as_json() for fault in ledger.rolled_back],
        "entries": _lines(ledger.entries),
    }


def with_costs(data: Mapping[str, Any], events: Sequence[StageEvent]) -> dict[str, Any]:
    """The same with what each entry's stage took, where it is known."""
    costs = {event.result: event.cost for event in events}
    entries = []
    for entry in data["entries"]:
        cost = costs.get(entry["result"])
        known = None if cost is None else {k: v for k, v in cost.as_json().items() if k != "series"}
        entries.append({**entry, "cost": known})
    return {**data, "entries": entries}


def read_ledger(path: Path) -> dict[str, Any]:
    """A `ledger.json`. Raises `UserError` when it is none, or one of another version."""
    data = read_json(path)
    if not isinstance(data, dict) or data.get("schema") != SCHEMA:
        found = data.get("schema") if isinstance(data, dict) else None
        raise UserError(
            f"{path} is not a ledger of this version (schema {found}, not {SCHEMA})",
            "build again with this version",
        )
    try:
        data["entries"] = [{**line, **read_entry(line).as_json()} for line in data["entries"]]
        if not data["entries"]:
            raise ValueError
    except (KeyError, TypeError, ValueError):
        raise UserError(f"{path} is damaged: its entries are not whole", "build again") from None
    return data


def _lines(entries: Sequence[Entry]) -> list[dict[str, Any]]:
    original, before = entries[0], entries[0]
    lines = []
    for entry in entries:
        lines.append(
            {
                **entry.as_json(),
                "compression_ratio": compression_ratio(entry, original),
                "compression_ratio_fp32": fp32_ratio(entry, original),
                "efficiency": efficiency(entry, original),
                "to_stage_before": changes(entry, before),
                "to_original": changes(entry, original),
            }
        )
        if entry.kept:
            before = entry
    return lines
