"""The result as text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmark.records import Result


def table(result: Result) -> str:
    """Machine, figures, ratios, quality, verdict."""
    rows = _decoder_rows(result) if result.kind == "decoder" else _encoder_rows(result)
    parts = [machine_line(result), "", *aligned(rows)]
    if result.kind == "decoder" and (more := _client_rows(result)):
        parts += ["", "requests/s by number of clients", *aligned(more)]
    if result.quality:
        parts += ["", *aligned(_quality_rows(result.quality))]
    parts += ["", *(f"note: {note}" for note in result.notes)]
    parts += [f"FAIL  {fault.text}" for fault in result.faults]
    if not result.faults and not any(n.startswith("no verdict") for n in result.notes):
        parts.append("PASS  onnx-int8 is faster than onnx-fp32 in the stated mix")
    return "\n".join(parts)


def machine_line(result: Result) -> str:
    machine = result.machine
    present = [name for name, there in machine["instructions"].items() if there]
    bandwidths = ", ".join(
        f"{n} thread{'s' if n != '1' else ''} {value / 1e9:.1f} GB/s"
        for n, value in machine["read_bandwidth_bytes_per_sec"].items()
    )
    return (
        f"{result.model} on {machine['cpu_model']}, cores {machine['free_cores']} free of "
        f"{machine['logical_cores']}, {' '.join(present) or 'no vector sets known'}; reads "
        f"{bandwidths}; other work {machine['foreign_cores_median']:.2f} cores (at most "
        f"{machine['foreign_cores_max']:.2f}); energy: {machine['energy']}"
    )


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Columns as wide as their widest cell; the first to the left, others to the right."""
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.rjust(width) for cell, width in zip(row, widths, strict=True)]
        cells[0] = row[0].ljust(widths[0])
        lines.append("  ".join(cells).rstrip())
    return lines


def ranged(values: dict[str, Any], digits: int = 1) -> str:
    """`median (minimum-maximum)`."""
    low, high = values["minimum"], values["maximum"]
    return f"{values['median']:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"


def _decoder_rows(result: Result) -> list[list[str]]:
    header = ["engine", "thr", "MB", "size", "ttft ms", "prefill tok/s", "decode tok/s"]
    header += ["request p50/p95/p99 ms", f"x {result.ratios['baseline']}", "prefill", "decode"]
    header += ["band", "RSS MB", "J/tok"]
    rows = [header]
    for engine in result.engines:
        figures, ratio = engine.figures, result.ratios["engines"][engine.name]
        latency, share = figures["request_latency"], figures.get("bandwidth_share")
        energy = figures.get("energy_j_per_token")
        rows.append(
            [
                engine.name,
                str(engine.threads),
                f"{engine.file_bytes / 1e6:.1f}",
                f"{ratio['size']:.3f}" if ratio["size"] else "-",
                f"{figures['ttft_sec']['median'] * 1e3:.1f}",
                ranged(figures["prefill_tokens_per_sec"], 0),
                ranged(figures["decode_tokens_per_sec"]),
                "/".join(f"{latency[f'p{p}_sec'] * 1e3:.0f}" for p in (50, 95, 99)),
                *(f"{ratio[name]['median']:.2f}" for name in ("request", "prefill", "decode")),
                f"{share:.0%}" if share is not None else "-",
                f"{figures['peak_rss_bytes'] / 1e6:.0f}",
                f"{energy['median']:.2f}" if energy else "-",
            ]
        )
    return rows


def _client_rows(result: Result) -> list[list[str]]:
    counts = sorted({int(n) for e in result.engines for n in e.figures["clients"]})
    if not counts:
        return []
    rows = [["engine", *map(str, counts), "p95 s at most clients", "how"]]
    for engine in result.engines:
        by_clients = engine.figures["clients"]
        rows.append(
            [
                engine.name,
                *(f"{by_clients[str(n)]['requests_per_sec']['median']:.2f}" for n in counts),
                f"{by_clients[str(counts[-1])]['p95_sec']:.2f}",
                str(engine.facts.get("serving", "")).partition(":")[0],
            ]
        )
    return rows


def _encoder_rows(result: Result) -> list[list[str]]:
    base = f"x {result.ratios['baseline']}"
    rows = [["shape", "engine", "thr", "p50/p95/p99 ms", "sequences/s", base]]
    for name in result.engines[0].figures["cells"]:
        for engine in result.engines:
            cell = engine.figures["cells"][name]
            ratio = result.ratios["engines"][engine.name]["cells"][name]["median"]
            rows.append(
                [
                    name,
                    engine.name,
                    str(engine.threads),
                    "/".join(f"{cell[f'p{p}_sec'] * 1e3:.1f}" for p in (50, 95, 99)),
                    ranged(cell["sequences_per_sec"]),
                    f"{ratio:.2f}",
                ]
            )
    for engine in result.engines:
        ratio = result.ratios["engines"][engine.name]
        size = f"{engine.file_bytes / 1e6:.1f} MB"
        rss = f"RSS {engine.figures['peak_rss_bytes'] / 1e6:.0f} MB"
        rows.append(["mix", engine.name, "", size, rss, f"{ratio['mix']['median']:.2f}"])
    return rows


def _quality_rows(quality: dict[str, Any]) -> list[list[str]]:
    names = list(dict.fromkeys(n for row in quality["engines"].values() for n in row))
    rows = [[f"quality ({quality['source']})", *names]]
    for engine, figures in quality["engines"].items():
        rows.append([engine, *(_figure(figures.get(name)) for name in names)])
    return rows


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value or "-")
