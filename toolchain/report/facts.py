"""All that is known of a bundle: what it ships, what its log says of this machine and of devices.

The HTML, Markdown and JSON reports are written from it and from nothing else.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from common.damage import told_as_damage
from common.errors import UserError
from common.files import read_object
from toolchain.report.acceptance import acceptance
from toolchain.report.devices import FILE as DEVICE_FILE
from toolchain.report.devices import FOLDER as DEVICES

SCHEMA = 1


def read_facts(bundle: Path) -> dict[str, Any]:
    """The facts of a bundle, acceptance included. Raises `UserError` when there is no bundle, or
    its ledger is of another version."""
    from toolchain.ledger.file import FILE, read_ledger

    manifest_file = bundle / "manifest.json"
    if not manifest_file.is_file():
        raise UserError(
            f"there is no bundle in {bundle}", "build it first: make target=… (edgeforge build)"
        )
    log = bundle / "log"
    path = next((p for p in (log / FILE, bundle / FILE) if p.is_file()), None)
    devices = sorted((log / DEVICES).glob(f"*/{DEVICE_FILE}"))
    facts: dict[str, Any] = {
        "schema": SCHEMA,
        "manifest": read_object(manifest_file),
        "ledger": read_ledger(path) if path else None,
        "smoke": _optional(log / "smoke.json"),
        "devices": [read_object(file) for file in devices],
        "stages": (_optional(log / "build.json") or {}).get("stages", []),
        "benchmark": _benchmark(log / "benchmark" / "results.jsonl"),
    }
    with told_as_damage(f"what {bundle} tells of itself", "build it again, or test it again"):
        return {**facts, "acceptance": acceptance(facts)}


def _optional(path: Path) -> dict[str, Any] | None:
    return read_object(path) if path.is_file() else None


def _benchmark(path: Path) -> dict[str, Any] | None:
    """The summary of `edgeforge bench`, where it was run."""
    if not path.is_file():
        return None
    try:
        rows = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
        return next(dict(row) for row in rows if row.get("record") == "summary")
    except (ValueError, AttributeError, StopIteration, RecursionError):
        raise UserError(
            f"{path} is no result of a benchmark", "run edgeforge bench again"
        ) from None
