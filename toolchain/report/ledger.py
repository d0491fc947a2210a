"""The ledger for readers: what every stage made of the model, and the two models side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.ledger.entry import tasks_in_order
from toolchain.report.blocks import Block, Plots, Table, Text
from toolchain.report.markdown import MISSING, figure, size
from toolchain.report.plots import Line, scatter
from toolchain.report.strings import spoken_name, text

_COLORS = 8
_COST_COLUMNS = 3
Entry = Mapping[str, Any]


def ledger_blocks(ledger: Mapping[str, Any], language: str) -> list[Block]:
    """The table of all entries, what was rolled back, and how to read it."""
    columns = _columns("ledger_columns", language)
    rows = [_row(entry, language) for entry in ledger["entries"]]
    if not any(entry.get("cost") for entry in ledger["entries"]):
        columns = columns[:-_COST_COLUMNS]
        rows = [row[:-_COST_COLUMNS] for row in rows]
    undone = {(i, 0): "undone" for i, entry in enumerate(ledger["entries"]) if not entry["kept"]}
    blocks: list[Block] = [Table(columns, rows, undone)]
    blocks += [
        Text(
            text(
                "rolled_back",
                language,
                stage=fault["stage"],
                budget=spoken_name(fault["budget"], language),
                measured=figure(fault["measured"]),
                allowed=figure(fault["allowed"]),
            )
        )
        for fault in ledger["rolled_back"]
    ]
    positions = next((e["positions"] for e in ledger["entries"] if e["positions"]), None)
    return [*blocks, Text(text("ledger_note", language, positions=figure(positions)), soft=True)]


def comparison(facts: Mapping[str, Any], language: str) -> list[Block]:
    """Original and optimized in two columns."""
    ledger, smoke = facts["ledger"], facts["smoke"]
    original, last = ledger["entries"][0], last_entry(ledger)
    rows = [
        _pair("parameters", figure, original, last, "parameters", language),
        _pair("size", size, original, last, "size_bytes", language),
        _pair("bits_per_weight", figure, original, last, "bits_per_weight", language),
        _planned("planned_memory", size, original, last, "memory_bytes", language),
        _planned("planned_decode", _rate, original, last, "decode_tokens_per_sec", language),
        _pair("perplexity", figure, original, last, "perplexity", language),
        _pair("kld_to_original", figure, original, last, "kld_mean", language),
    ]
    for task, metric in _metrics([original, last]):
        values = [entry["tasks"].get(task, {}).get(metric) for entry in (original, last)]
        name = f"{spoken_name(metric, language)} ({text(f'task_{task}', language)})"
        rows.append([name, *map(figure, values), _change(*values)])
    ratios = ("compression_ratio", "compression_ratio_fp32", "efficiency")
    rows += [[text(n, language), *(_times(e[n]) for e in (original, last)), ""] for n in ratios]
    checks = {check["name"]: check for check in smoke["checks"]} if smoke else {}
    for name in ("decode_tokens_per_sec", "prefill_tokens_per_sec", "ttft_sec", "peak_rss_bytes",
                 "joules_per_token"):  # fmt: skip
        if name in checks:
            label = f"{spoken_name(name, language)} ({text('measured_here', language)})"
            rows.append([label, MISSING, _measured(checks[name]), ""])
    context = (last["planned"] or {}).get("context_tokens")
    note = text("comparison_note", language, context=figure(context))
    return [Table(_columns("comparison_columns", language), rows), Text(note, soft=True)]


def cliff_blocks(facts: Mapping[str, Any], language: str) -> list[Block]:
    """Quality against size and against speed: the ledger's entries and the candidates measured."""
    ledger, manifest = facts["ledger"], facts["manifest"]
    limit = ledger["budget"].get("max_total_kld") or ledger["budget"].get("max_kld")
    points = _points(ledger, manifest)
    if not points:
        return []
    plots = []
    for key, axis in (("size", "size_axis"), ("speed", "speed_axis")):
        rows = [
            Line(name, [(point[key], point["kld"])], i % _COLORS)
            for i, (name, point) in enumerate(points.items())
            if point[key] is not None
        ]
        if rows:
            title, x, y = (text(k, language) for k in (f"quality_{key}", axis, "kld_axis"))
            plots.append(scatter(title, rows, x, y, limit))
    beyond = [name for name, point in points.items() if limit and point["kld"] > limit]
    note = text("cliff_none", language, limit=figure(limit))
    if beyond:
        note = text("cliff", language, limit=figure(limit), names=", ".join(beyond))
    table = [
        [name, figure(p["size"]), _rate(p["speed"]), figure(p["kld"])] for name, p in points.items()
    ]
    columns = _columns("cliff_columns", language)
    return [Plots(plots), Text(note), Table(columns, table)]


def last_entry(ledger: Mapping[str, Any]) -> Entry:
    """The last entry that was not rolled back."""
    found: Entry = next(entry for entry in reversed(ledger["entries"]) if entry["kept"])
    return found


def label(entry: Entry, language: str) -> str:
    """The stage's name for readers."""
    return text("original", language) if entry["stage"] == "original" else entry["stage"]


def _row(entry: Entry, language: str) -> list[str]:
    planned, cost = entry["planned"] or {}, entry.get("cost") or {}
    tasks = entry["tasks"]
    score = next((v for t in tasks_in_order(tasks) for v in tasks[t].values()), None)
    share = entry["to_original"]["task_share"]
    return [
        label(entry, language),
        figure(entry["parameters"]),
        size(entry["size_bytes"]),
        figure(entry["bits_per_weight"]),
        _times(entry["compression_ratio"]),
        size(planned.get("memory_bytes")),
        figure(entry["perplexity"]),
        figure(entry["kld_mean"]),
        figure(entry["to_stage_before"]["kld_mean_change"]),
        figure(score) if share is None else f"{figure(score)} ({share:.1%})",
        _times(entry["efficiency"]),
        MISSING if not cost else f"{figure(cost['wall_sec'])} s",
        size(cost.get("peak_rss_bytes")),
        MISSING if cost.get("joules") is None else f"{figure(cost['joules'])} J",
    ]


def _points(ledger: Mapping[str, Any], manifest: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Name → size in MB, speed and KLD of everything that has a KLD. The candidates' is against the
    unquantized file, so they join only where that is the original."""
    found = {}
    for number, entry in enumerate(ledger["entries"]):
        if entry["kld_mean"] is not None:
            planned = entry["planned"] or {}
            name = entry["stage"] if entry["stage"] not in found else f"{entry['stage']} {number}"
            found[name] = {
                "size": entry["size_bytes"] / 1e6,
                "speed": planned.get("decode_tokens_per_sec"),
                "kld": entry["kld_mean"],
            }
    if len(ledger["entries"]) == 2:
        plans = {c["size"]["quantization"]: c for c in manifest["plan"].get("candidates", [])}
        for record in manifest["tried"]:
            name, kld = record["quantization"], record.get("mean_kld")
            if name not in found and kld is not None:
                found[name] = {
                    "size": record["size_bytes"] / 1e6,
                    "speed": plans.get(name, {}).get("decode_tokens_per_sec"),
                    "kld": kld,
                }
    return found


def _metrics(entries: Sequence[Entry]) -> list[tuple[str, str]]:
    """(task, metric) pairs of the entries, in their order."""
    pairs = [(task, m) for e in entries for task, scores in e["tasks"].items() for m in scores]
    return list(dict.fromkeys(pairs))


def _pair(key: str, shown: Any, one: Entry, two: Entry, field: str, language: str) -> list[str]:
    values = one[field], two[field]
    change = "" if field == "kld_mean" else _change(*values)
    return [text(key, language), *map(shown, values), change]


def _planned(key: str, shown: Any, one: Entry, two: Entry, field: str, language: str) -> list[str]:
    values = [(entry["planned"] or {}).get(field) for entry in (one, two)]
    return [text(key, language), *map(shown, values), _change(*values)]


def _change(before: float | None, after: float | None) -> str:
    return f"{100 * (after / before - 1):+.1f} %" if before and after is not None else ""


def _times(value: float | None) -> str:
    return MISSING if value is None else f"{value:.3g} ×"


def _rate(value: float | None) -> str:
    return MISSING if value is None else f"{figure(value)} tokens/s"


def _measured(check: Mapping[str, Any]) -> str:
    if check["value"] is None:
        return MISSING
    if check["unit"] == "bytes":
        return size(check["value"])
    return f"{figure(check['value'])} {check['unit']}"


def _columns(key: str, language: str) -> list[str]:
    return [column.strip() for column in text(key, language).split("|")]
