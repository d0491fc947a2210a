"""The acceptance checklist: every limit that the bundle has, and whether it was met.

An item that was not measured is listed as such and is no pass.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

PASSED, FAILED, NOT_MEASURED = "passed", "failed", "not measured"


def acceptance(facts: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Items with `part` (where it was measured), `name`, `measured`, `limit`, `unit`, `status`."""
    items = [*_gates(facts["manifest"]), *_budgets(facts["ledger"]), *_smoke(facts["smoke"])]
    return items + _devices(facts["devices"])


def verdict(items: list[dict[str, Any]]) -> str:
    """Failed when one item is, else passed; what was not measured does not count."""
    return FAILED if any(item["status"] == FAILED for item in items) else PASSED


def _item(
    part: str, name: str, measured: Any, limit: Any, unit: str, status: str
) -> dict[str, Any]:
    return {
        "part": part,
        "name": name,
        "measured": measured,
        "limit": limit,
        "unit": unit,
        "status": status,
    }


def _gates(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The export's proofs that have a limit."""
    return [
        _item(
            "export",
            gate["name"],
            gate["figure"],
            gate["limit"],
            "",
            PASSED if gate["passed"] else FAILED,
        )
        for gate in manifest["gates"]
        if gate["passed"] is not None
    ]


def _budgets(ledger: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The recipe's and the profile's budgets for the whole way from the original."""
    if ledger is None:
        return []
    last = next(entry for entry in reversed(ledger["entries"]) if entry["kept"])
    measured = {
        "max_total_kld": (last["kld_mean"], ""),
        "min_total_task_share": (last["to_original"]["task_share"], "share"),
        "max_file_bytes": (last["size_bytes"], "bytes"),
    }
    items = []
    for name, (value, unit) in measured.items():
        limit = ledger["budget"].get(name)
        if limit is None:
            continue
        met = value is not None and (value >= limit if name.startswith("min") else value <= limit)
        status = NOT_MEASURED if value is None else PASSED if met else FAILED
        items.append(_item("ledger", name, value, limit, unit, status))
    return items


def _smoke(smoke: Mapping[str, Any] | None) -> list[dict[str, Any]]:
    """The smoke test's checks on this machine: those with a limit, and those not measured."""
    if smoke is None:
        return [_item("smoke", "smoke_test", None, None, "", NOT_MEASURED)]
    return [
        _item(
            "smoke", check["name"], check["value"], check["limit"], check["unit"], check["status"]
        )
        for check in smoke["checks"]
        if check["status"] in (PASSED, FAILED, NOT_MEASURED)
    ]


def _devices(devices: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Every device's verdict; without a device, that it was tested on none."""
    if not devices:
        return [_item("device", "target_device", None, None, "", NOT_MEASURED)]
    known = (PASSED, FAILED)
    return [
        _item(
            "device",
            record["device"],
            record["verdict"],
            None,
            "",
            record["verdict"] if record["verdict"] in known else NOT_MEASURED,
        )
        for record in devices
    ]
