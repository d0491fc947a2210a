"""The files of a run: `results.jsonl` (machine, every measurement, summary), `results.csv` (the
measurements), `benchmark.html`."""

from __future__ import annotations

import csv
import io
import json
from dataclasses import fields
from pathlib import Path

from benchmark.page import page
from benchmark.records import Measurement, Result
from common.errors import UserError
from common.files import write_text

JSON_LINES, CSV, PAGE = "results.jsonl", "results.csv", "benchmark.html"


def write_files(result: Result, out: Path) -> list[Path]:
    """Write all three into `out`; returns their paths."""
    texts = {JSON_LINES: json_lines(result), CSV: csv_text(result), PAGE: page(result)}
    for name, text in texts.items():
        write_text(out / name, text)
    return [out / name for name in texts]


def require_writable(out: Path) -> None:
    """Make the folder now, so that a run does not end without a place for its results."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / ".writable"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise UserError(
            f"results cannot be written to {out}: {error.strerror}", "choose another --out"
        ) from None


def json_lines(result: Result) -> str:
    """One object a line; `record` says what it is."""
    rows: list[dict[str, object]] = [{"record": "machine", **result.machine}]
    rows += [{"record": "measurement", **m.as_json()} for m in result.measurements]
    summary = {k: v for k, v in result.as_json().items() if k != "machine"}
    rows.append({"record": "summary", **summary})
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def csv_text(result: Result) -> str:
    """The measurements, a header first; empty where a column does not apply."""
    stream = io.StringIO()
    names = [field.name for field in fields(Measurement)]
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(measurement.as_json() for measurement in result.measurements)
    return stream.getvalue()
