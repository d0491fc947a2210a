"""Devices that a bundle was tested on: one row each, for a terminal and for `log/devices.md`.

The table of a bundle is made from what lies in its `log/devices/*/`, whenever it was tested there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.files import read_json, write_text
from toolchain.report.markdown import MISSING, figure, size, table
from toolchain.report.strings import LANGUAGES, name_of, text

FOLDER, FILE = "devices", "device.json"
# Checks of the smoke test that make a column.
_FIGURES = (
    "equal_answers",
    "prefill_tokens_per_sec",
    "decode_tokens_per_sec",
    "ttft_sec",
    "peak_rss_bytes",
)


def write_devices(bundle: Path) -> None:
    """Write `log/devices.md` in each language, from every device's `device.json`."""
    log = bundle / "log"
    records = [read_json(path) for path in sorted((log / FOLDER).glob(f"*/{FILE}"))]
    for language in LANGUAGES:
        name = "devices.md" if language == LANGUAGES[0] else f"devices.{language}.md"
        write_text(log / name, devices_report(records, language))


def devices_report(records: Sequence[Mapping[str, Any]], language: str = LANGUAGES[0]) -> str:
    """The table, then what each device advises, what went wrong and what was not measured."""
    parts = [f"# {text('devices', language)}", device_table(records, language)]
    for record in records:
        if notes := _notes(record, language):
            parts.append(f"## {record['device']}\n\n{notes}")
    return "\n\n".join(parts) + "\n"


def device_table(records: Sequence[Mapping[str, Any]], language: str = LANGUAGES[0]) -> str:
    """One row for each device, in Markdown."""
    return table("|".join(device_columns(language)), device_rows(records, language))


def device_columns(language: str) -> list[str]:
    """Titles of `device_rows`."""
    titles = [name_of(name, language) for name in _FIGURES]
    return [*(part.strip() for part in text("devices_columns", language).split("|")), *titles]


def device_rows(records: Sequence[Mapping[str, Any]], language: str) -> list[list[str]]:
    """The cells of each device."""
    return [_row(record, language) for record in records]


def plain_table(records: Sequence[Mapping[str, Any]]) -> str:
    """The same for a terminal: columns of equal width, short titles."""
    titles = [
        "device",
        "target",
        "verdict",
        "copied",
        "answers",
        "prefill",
        "decode",
        "ttft",
        "rss",
    ]
    rows = [titles, *([str(cell) for cell in _cells(record)] for record in records)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(titles))]
    lines = ["  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)) for row in rows]
    return "\n".join(line.rstrip() for line in lines)


def _row(record: Mapping[str, Any], language: str) -> list[str]:
    device, target, verdict, copied, *figures = _cells(record)
    facts = record["facts"] or {}
    jetson = facts.get("jetson") or {}
    machine = jetson.get("board") or facts.get("system") or MISSING
    return [device, target, text(verdict, language), machine, copied, *figures]


def _cells(record: Mapping[str, Any]) -> list[str]:
    checks = {check["name"]: check for check in record["checks"]}
    copied = record["copied"]
    return [
        record["device"],
        record["target"],
        record["verdict"],
        size(copied["copied_bytes"]) if copied else MISSING,
        *(_shown(checks.get(name)) for name in _FIGURES),
    ]


def _shown(check: Mapping[str, Any] | None) -> str:
    if check is None or check["value"] is None:
        return MISSING
    value, unit = check["value"], check["unit"]
    if unit == "bytes":
        return size(value)
    return f"{value:.0%}" if unit == "share" else f"{figure(value)} {unit}"


def _notes(record: Mapping[str, Any], language: str) -> str:
    lines = [f"- {text('device_advice', language)}: {line}" for line in record["advice"]]
    if error := record["error"]:
        lines.insert(0, f"- {error['problem']} ({error['mend']})")
        names = ", ".join(name_of(name, language) for name in record["not_measured"])
        missing = names or text("device_everything", language)
        lines.insert(1, f"- {text('device_missing', language)}: {missing}")
    return "\n".join(lines)
