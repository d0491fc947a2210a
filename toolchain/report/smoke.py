"""A smoke test's result as Markdown, for `log/smoke.md`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolchain.report.markdown import MISSING, figure, size, table
from toolchain.report.strings import LANGUAGES, name_of, text


def smoke_report(result: Mapping[str, Any], language: str = LANGUAGES[0]) -> str:
    """The checks, what machine and engine they ran on, and the thread counts tried.

    `result` is what `smoke_test.py --json` writes.
    """
    verdict = text(result["verdict"], language)
    rows = [
        (
            name_of(check["name"], language),
            _shown(check["value"], check["unit"]),
            _shown(check["limit"], check["unit"]),
            text(check["status"], language),
            check["note"],
        )
        for check in result["checks"]
    ]
    parts = [
        f"# {text('smoke', language, verdict=verdict)}",
        table(text("smoke_columns", language), rows),
        _threads(result, language),
        _machine(result, language),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _threads(result: Mapping[str, Any], language: str) -> str:
    threads = result["threads"]
    if not threads.get("best"):
        return ""
    rates = threads["decode_tokens_per_sec"].items()
    return text(
        "threads",
        language,
        best=threads["best"],
        cores=result["machine"]["usable_cores"],
        profile=threads["profile"],
        rates=", ".join(f"{count}: {figure(rate)}" for count, rate in rates),
    )


def _machine(result: Mapping[str, Any], language: str) -> str:
    machine, engine = result["machine"], result["engine"]
    if "speed_limit_scales" not in machine:
        return ""
    scales = machine["speed_limit_scales"]
    return text(
        "machine",
        language,
        cpu=machine["cpu"],
        engine=engine["name"],
        version=engine["version"],
        bandwidth=figure(machine["copy_bandwidth_bytes_per_sec"] / 1e9),
        load=figure(machine["load_per_core_before"]),
        decode=figure(scales["decode"]),
        prefill=figure(scales["prefill"]),
    )


def _shown(value: float | None, unit: str) -> str:
    if value is None:
        return MISSING
    if unit == "bytes":
        return size(value)
    return f"{value:.1%}" if unit == "share" else f"{figure(value)} {unit}"
