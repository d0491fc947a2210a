"""The page's tables."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from benchmark.records import Result
from benchmark.table import ranged
from toolchain.report.blocks import Table
from toolchain.report.plots import number


def figures_table(result: Result, words: Mapping[str, str]) -> str:
    """All figures of all engines."""
    if result.kind == "decoder":
        return "".join(rows_html(*table) for table in _decoder_tables(result, words))
    header = [words["shape"], words["engine"], words["threads"], "p50 / p95 / p99 ms"]
    header += ["1/s", f"× {result.ratios['baseline']}", words["joules_request"]]
    return rows_html(header, _encoder_rows(result))


def quality_table(quality: Mapping[str, Any], words: Mapping[str, str]) -> str:
    """Quality by engine; a cell is empty where an engine has no such figure."""
    names = list(dict.fromkeys(n for row in quality["engines"].values() for n in row))
    rows = [
        [engine, *(_cell(figures.get(name)) for name in names)]
        for engine, figures in quality["engines"].items()
    ]
    return rows_html([words["engine"], *names], rows)


def rows_html(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table that scrolls sideways where the screen is narrow."""
    return Table(header, rows).as_html()


def _decoder_tables(
    result: Result, words: Mapping[str, str]
) -> list[tuple[list[str], list[list[str]]]]:
    """Speeds; ratios, sizes and memory; requests of several clients: narrow enough to print."""
    tables = [_speeds(result, words), _ratios(result, words)]
    counts = sorted({int(n) for e in result.engines for n in e.figures["clients"]})
    if counts:
        tables.append(_clients(result, words, counts))
    return tables


def _speeds(result: Result, words: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    names = ("engine", "threads", "ttft", "prefill", "decode")
    header = [*(words[name] for name in names), f"{words['latency']} (p50 / p95 / p99)"]
    rows = []
    for engine in result.engines:
        figures = engine.figures
        rows.append(
            [
                engine.name,
                str(engine.threads),
                number(figures["ttft_sec"]["median"] * 1e3),
                ranged(figures["prefill_tokens_per_sec"], 0),
                ranged(figures["decode_tokens_per_sec"]),
                _percentiles(figures["request_latency"]),
                _percentiles(figures["token_latency"]),
            ]
        )
    return [*header, words["token_latency"]], rows


def _ratios(result: Result, words: Mapping[str, str]) -> tuple[list[str], list[list[str]]]:
    header = [words["engine"]]
    header += [f"× {words[f'ratio_{part}']}" for part in ("request", "prefill", "decode")]
    header += [words[n] for n in ("size", "size_ratio", "share", "rss", "joules_token")]
    rows = []
    for engine in result.engines:
        figures, ratio = engine.figures, result.ratios["engines"][engine.name]
        share, energy = figures.get("bandwidth_share"), figures.get("energy_j_per_token")
        rows.append(
            [
                engine.name,
                *(f"{ratio[part]['median']:.2f}" for part in ("request", "prefill", "decode")),
                number(engine.file_bytes / 1e6),
                f"{ratio['size']:.3f}" if ratio["size"] else "-",
                f"{share:.0%}" if share is not None else "-",
                number(figures["peak_rss_bytes"] / 1e6),
                number(energy["median"]) if energy else "-",
            ]
        )
    return header, rows


def _clients(
    result: Result, words: Mapping[str, str], counts: Sequence[int]
) -> tuple[list[str], list[list[str]]]:
    header = [words["engine"], *(f"{n}: 1/s" for n in counts), *(f"{n}: p95 s" for n in counts)]
    rows = []
    for engine in result.engines:
        cells = [engine.figures["clients"][str(n)] for n in counts]
        rates = [number(cell["requests_per_sec"]["median"]) for cell in cells]
        how = str(engine.facts.get("serving", "")).partition(":")[0]
        rows.append([engine.name, *rates, *(number(cell["p95_sec"]) for cell in cells), how])
    return [*header, words["serving"]], rows


def _encoder_rows(result: Result) -> list[list[str]]:
    rows = []
    for name in result.engines[0].figures["cells"]:
        for engine in result.engines:
            cell = engine.figures["cells"][name]
            ratio = result.ratios["engines"][engine.name]["cells"][name]
            energy = cell.get("energy_j_per_request")
            rows.append(
                [
                    name.replace("x", " × "),
                    engine.name,
                    str(engine.threads),
                    _percentiles(cell),
                    ranged(cell["sequences_per_sec"]),
                    f"{ratio['median']:.2f}",
                    number(energy["median"]) if energy else "-",
                ]
            )
    return rows


def _percentiles(values: Mapping[str, float]) -> str:
    return " / ".join(number(values[f"p{p}_sec"] * 1e3) for p in (50, 95, 99))


def _cell(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else str(value or "-")
