"""The result as one HTML page: plots inside, no script, no network, English and then Chinese.

Every string that comes from outside (model names, errors, CPU names) is escaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape
from typing import Any

from benchmark.machine import NOT_READABLE
from benchmark.page_strings import LANGUAGES, STRINGS
from benchmark.page_tables import figures_table, quality_table
from benchmark.records import Result
from toolchain.report.blocks import html_page
from toolchain.report.plots import Bar, Line, bars, lines

_COLORS = 8


def page(result: Result) -> str:
    """The page's text."""
    sections = "".join(_section(result, code) for code in LANGUAGES)
    return html_page(f"{result.model}: {STRINGS['en']['title']}", LANGUAGES, sections)


def _section(result: Result, code: str) -> str:
    words = STRINGS[code]
    mix = words[f"mix_{result.kind}"].format(
        prompt=result.settings.get("prompt_tokens"), decode=result.settings.get("decode_tokens")
    )
    plots = _decoder_plots if result.kind == "decoder" else _encoder_plots
    parts = [
        f"<h1>{escape(result.model)}: {words['title']}</h1>",
        _verdict(result, words, mix),
        _heading(words["speed"]),
        f'<div class="plots">{"".join(plots(result, words))}</div>',
        _heading(words["figures"]),
        figures_table(result, words),
    ]
    if result.quality:
        source = words["quality_source"].format(source=result.quality["source"])
        parts += [_heading(words["quality"]), f"<p>{escape(source)}</p>"]
        parts.append(quality_table(result.quality, words))
    parts += [_heading(words["machine"]), _machine(result.machine, words)]
    method = words["method_text"].format(rounds=result.settings.get("rounds"))
    parts += [_heading(words["method"]), f"<p>{escape(method)}</p>"]
    if result.notes:
        notes = "".join(f"<li>{escape(note)}</li>" for note in result.notes)
        parts += [_heading(words["notes"]), f"<ul>{notes}</ul>"]
    return f'<section class="lang" id="{code}" lang="{code}">{"".join(parts)}</section>\n'


def _verdict(result: Result, words: dict[str, str], mix: str) -> str:
    judged = not any(note.startswith("no verdict") for note in result.notes)
    if result.faults:
        kind, head, texts = "fail", "failed", [fault.text for fault in result.faults]
    elif judged:
        known = not any(note.startswith("no quality gate") for note in result.notes)
        kind, head = "pass", "passed"
        texts = [words["passed_text" if known else "passed_speed_text"]]
    else:
        kind, head, texts = "", "no_verdict", [words["no_verdict_text"]]
    if result.machine.get("busy"):
        texts.append(words["busy"])
    shown = "".join(f"<p>{escape(text)}</p>" for text in (*texts, mix))
    return f'<div class="verdict {kind}"><b>{words[head]}</b>{shown}</div>'


def _machine(machine: Any, words: dict[str, str]) -> str:
    sets = " ".join(
        f'<span class="{"has" if there else "not"}">{escape(name)}</span>'
        for name, there in machine["instructions"].items()
    )
    bandwidth = "; ".join(
        words["threads_text"].format(n=n, value=f"{value / 1e9:.1f}")
        for n, value in machine["read_bandwidth_bytes_per_sec"].items()
    )
    cores = words["cores_text"].format(
        free=len(machine["free_cores"]),
        logical=machine["logical_cores"],
        physical=machine["physical_cores"],
    )
    memory = words["memory_text"].format(
        total=f"{machine['memory_total_bytes'] / 1e9:.1f}",
        free=f"{machine['memory_available_bytes'] / 1e9:.1f}",
    )
    load = words["load_text"].format(
        median=f"{machine['foreign_cores_median']:.2f}",
        max=f"{machine['foreign_cores_max']:.2f}",
        before=f"{machine['load_1min_before']:.1f}",
        after=f"{machine['load_1min_after']:.1f}",
    )
    energy = machine["energy"]
    versions = ", ".join(f"{name} {value}" for name, value in machine["versions"].items())
    rows = [
        (words["cpu"], escape(f"{machine['cpu_model']} ({machine['arch']}, {machine['os']})")),
        (words["cores"], escape(cores)),
        (words["instructions"], sets),
        (words["bandwidth"], escape(bandwidth)),
        (words["memory"], escape(memory)),
        (words["load"], escape(load)),
        (words["energy"], escape(words["not_readable"] if energy == NOT_READABLE else energy)),
        (words["versions"], escape(f"Python {machine['python']}, {versions}")),
    ]
    return "<dl>" + "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows) + "</dl>"


def _decoder_plots(result: Result, words: dict[str, str]) -> Iterable[str]:
    ratios = result.ratios["engines"]
    for name in ("prefill", "decode"):
        metric = f"{name}_tokens_per_sec"
        yield bars(words[name], [_spread_bar(result, i, metric) for i in _numbers(result)])
    rows = [
        Bar(
            f"{engine.name}, {words[f'ratio_{part}']}",
            ratios[engine.name][part]["median"],
            ratios[engine.name][part]["low_quartile"],
            ratios[engine.name][part]["high_quartile"],
            i % _COLORS,
        )
        for i, engine in enumerate(result.engines)
        if engine.name == "onnx-int8" or len(result.engines) < 4
        for part in ("request", "prefill", "decode")
    ]
    if not rows:
        rows = [
            Bar(engine.name, ratios[engine.name]["request"]["median"], color=i % _COLORS)
            for i, engine in enumerate(result.engines)
        ]
    yield bars(words["ratio"].format(baseline=result.ratios["baseline"]), rows, mark=1)
    latency = []
    for i, engine in enumerate(result.engines):
        p50, p95, p99 = (engine.figures["request_latency"][f"p{p}_sec"] * 1e3 for p in (50, 95, 99))
        text = " / ".join(f"{value:.0f}" for value in (p50, p95, p99))
        latency.append(Bar(engine.name, p50, p50, p99, i % _COLORS, text))
    yield bars(f"{words['latency']} (p50 / p95 / p99)", latency)
    served = [
        Line(
            engine.name,
            [
                (int(n), cell["requests_per_sec"]["median"])
                for n, cell in engine.figures["clients"].items()
            ],
            i % _COLORS,
        )
        for i, engine in enumerate(result.engines)
        if engine.figures["clients"]
    ]
    if served:
        yield lines(words["clients"], served, words["clients_axis"])
    yield from _size_plots(result, words)


def _encoder_plots(result: Result, words: dict[str, str]) -> Iterable[str]:
    ratios = result.ratios["engines"]
    mixes = [
        Bar(
            engine.name,
            ratios[engine.name]["mix"]["median"],
            ratios[engine.name]["mix"]["low_quartile"],
            ratios[engine.name]["mix"]["high_quartile"],
            i % _COLORS,
        )
        for i, engine in enumerate(result.engines)
    ]
    yield bars(words["ratio"].format(baseline=result.ratios["baseline"]), mixes, mark=1)
    cells = result.engines[0].figures["cells"].values()
    for batch in sorted({cell["batch"] for cell in cells}):
        rows = []
        for i, engine in enumerate(result.engines):
            mine = [c for c in engine.figures["cells"].values() if c["batch"] == batch]
            points = sorted((c["sequence"], c["sequences_per_sec"]["median"]) for c in mine)
            rows.append(Line(engine.name, points, i % _COLORS))
        yield lines(words["throughput"].format(batch=batch), rows, words["sequence_axis"])
    yield from _size_plots(result, words)


def _size_plots(result: Result, words: dict[str, str]) -> Iterable[str]:
    sizes = [
        Bar(engine.name, engine.file_bytes / 1e6, color=i % _COLORS)
        for i, engine in enumerate(result.engines)
    ]
    yield bars(words["size"], sizes)
    peaks = [
        Bar(engine.name, engine.figures["peak_rss_bytes"] / 1e6, color=i % _COLORS)
        for i, engine in enumerate(result.engines)
    ]
    yield bars(words["rss"], peaks)


def _spread_bar(result: Result, i: int, metric: str) -> Bar:
    engine = result.engines[i]
    values = engine.figures[metric]
    return Bar(engine.name, values["median"], values["minimum"], values["maximum"], i % _COLORS)


def _numbers(result: Result) -> Sequence[int]:
    return range(len(result.engines))


def _heading(text: str) -> str:
    return f"<h2>{escape(text)}</h2>"
