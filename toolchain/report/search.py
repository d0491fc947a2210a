"""What a search found: a table for a terminal, a page for people, a plot.

    write_search_report(folder, data)    # report.html, report.md, report.zh-CN.md, search.svg

`data` is `search.json`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from common.files import write_text
from toolchain.report.blocks import (
    Block,
    Code,
    Plots,
    Section,
    Table,
    Text,
    Verdict,
    html_page,
    html_section,
    markdown_page,
)
from toolchain.report.files import NAMES, PAGE
from toolchain.report.markdown import MISSING, figure, size
from toolchain.report.plots import Line, scatter
from toolchain.report.strings import LANGUAGES, text
from toolchain.report.svg import new_figure, save_svg
from toolchain.report.write import report_name

PLOT = "search.svg"
_SPEED = "decode_tokens_per_sec"
_BYTES = ("size_bytes", "memory_bytes")
Data = Mapping[str, Any]


def write_search_report(folder: Path, data: Data) -> None:
    """Write every form of the report into the search's folder."""
    parts = []
    for language in LANGUAGES:
        heading, body = _title(data, language), sections(data, language)
        parts.append(html_section(language, heading, body))
        write_text(folder / report_name(language), markdown_page(heading, body))
    page = html_page(_title(data, LANGUAGES[0]), NAMES, "".join(parts))
    write_text(folder / PAGE, page)
    _write_plot(folder / PLOT, data)


def search_table(data: Data) -> str:
    """The front for a reader at a terminal, the best marked."""
    from toolchain.plan_report import table_text

    header = ("trial", "size", "memory", "KLD", "decode tok/s", *_here_header(data), "", "point")
    rows = [
        (*cells[:1], *cells[2:5], *cells[5:], cells[1])
        for cells in (_front_row(record, data, LANGUAGES[0]) for record in _shown(data))
    ]
    lines = table_text(header, rows)
    best = data["best"]
    if best:
        held, found = best["held_out"], _record(data, best["trial"])
        lines += [
            "",
            f"KLD of the best: {found['figures']['kld']:.5f} on the search's part of the "
            f"calibration text; {held['kld']:.5f} on held-out text that no trial saw",
        ]
        limit = data["budget"].get("max_kld")
        if limit is not None and held["kld"] > limit:
            lines.append("note: " + text("search_over", LANGUAGES[0], limit=f"{limit:g}"))
    return "\n".join(lines)


def sections(data: Data, language: str) -> list[Section]:
    """Every section of the page."""
    bodies: dict[str, Sequence[Block]] = {
        "": [_verdict(data, language), *_notes(data, language)],
        "search_unmet": [Text(line) for line in data["unmet"]],
        "search_front": [_front(data, language)],
        "search_plots": [Plots(_plots(data, language))],
        "search_again": _again(data, language),
        "search_all": [_every(data, language)],
    }
    return [Section(key and text(key, language), body) for key, body in bodies.items() if body]


def _title(data: Data, language: str) -> str:
    return text("search_title", language, model=data["model"], target=data["target"]["name"])


def _verdict(data: Data, language: str) -> Block:
    best = data["best"]
    if best is None:
        return Verdict(text("search_none", language), "", "fail")
    found = _record(data, best["trial"])
    line = text(
        "search_verdict",
        language,
        objective=text(f"search_objective_{data['objective']}", language),
        value=_figure(data["figure"], found["figures"][data["figure"]]),
        kld=figure(found["figures"]["kld"]),
        held_out=figure(best["held_out"]["kld"]),
    )
    return Verdict(text("search_found", language, point=found["text"]), line, "pass")


def _notes(data: Data, language: str) -> list[Block]:
    texts, trials, best = data["texts"], data["trials"], data["best"]
    names = {key: texts[key]["name"] for key in texts}
    notes: list[Block] = []
    limit = data["budget"].get("max_kld")
    if best and limit is not None and best["held_out"]["kld"] > limit:
        notes.append(Text(text("search_over", language, limit=f"{limit:g}")))
    notes.append(
        Text(
            text(
                "search_texts",
                language,
                ranked=names["ranked_on"],
                made=names["made_with"],
                held=names["held_out"],
            ),
            soft=True,
        )
    )
    place = text(f"search_from_{data['speed_from']}", language, where=data["speed"])
    notes.append(Text(text("search_speeds", language, speed=place), soft=True))
    if here := data.get("here"):
        told = text("search_here", language, cpu=here["cpu"], threads=here["threads"])
        notes.append(Text(told, soft=True))
    pruned = sum(bool(record["reason"]) for record in trials)
    counts = text(
        "search_counts",
        language,
        trials=len(trials),
        space=data["space_size"],
        measured=len(trials) - pruned,
        pruned=pruned,
        seconds=f"{data['wall_sec'] or 0:.0f}",
    )
    return [*notes, Text(counts, soft=True)]


def _front(data: Data, language: str) -> Block:
    columns = [c.strip() for c in text("search_front_columns", language).split("|")]
    if data.get("here"):
        columns.insert(-1, text("search_here_column", language))
    rows = [_front_row(record, data, language) for record in _shown(data)]
    return Table(columns, rows)


def _here_header(data: Data) -> tuple[str, ...]:
    return ("decode here",) if data.get("here") else ()


def _front_row(record: Mapping[str, Any], data: Data, language: str) -> tuple[str, ...]:
    figures = record["figures"]
    mark = ""
    if data["best"] and record["trial"] == data["best"]["trial"]:
        mark = text("search_best", language)
    elif not _in_budget(record, data):
        mark = text("search_beyond", language)
    here = data.get("here")
    speeds = here["decode_tokens_per_sec"] if here else {}
    own = (_figure(_SPEED, speeds.get(str(record["trial"]))),) if here else ()
    return (
        str(record["trial"]),
        record["text"],
        size(figures["size_bytes"]),
        size(figures["memory_bytes"]),
        figure(figures.get("kld")),
        _figure(_SPEED, figures.get(_SPEED)),
        *own,
        mark,
    )


def _in_budget(record: Mapping[str, Any], data: Data) -> bool:
    from toolchain.search.settings import Budget

    return not Budget(**data["budget"]).broken(record["figures"])


def _shown(data: Data) -> list[Mapping[str, Any]]:
    """The front, and the best where the front has another figure of it."""
    numbers = list(data["front"])
    if data["best"] and data["best"]["trial"] not in numbers:
        numbers.append(data["best"]["trial"])
    return [_record(data, number) for number in numbers]


def _record(data: Data, number: int) -> Mapping[str, Any]:
    found: Mapping[str, Any] = next(r for r in data["trials"] if r["trial"] == number)
    return found


def _every(data: Data, language: str) -> Block:
    columns = [c.strip() for c in text("search_all_columns", language).split("|")]
    rows = [
        (
            str(record["trial"]),
            record["text"],
            size(record["figures"].get("size_bytes")),
            figure(record["figures"].get("kld", record["figures"].get("kld_quick"))),
            _figure(_SPEED, record["figures"].get(_SPEED)),
            record["reason"] or "",
        )
        for record in data["trials"]
    ]
    return Table(columns, rows)


def _again(data: Data, language: str) -> list[Block]:
    if not data["best"]:
        return []
    best = data["best"]
    return [
        Code(f"{best['command']}\nsha256 {best['sha256']}"),
        Text(text("search_recipe", language, recipe=best["recipe"])),
    ]


def _series(data: Data, name: str) -> tuple[list[tuple[float, float]], list[tuple[float, float]]]:
    """All measured points and those of the front as (figure, KLD); sizes in MB."""

    def point(record: Mapping[str, Any]) -> tuple[float, float] | None:
        value, kld = record["figures"].get(name), record["figures"].get("kld")
        if value is None or kld is None:
            return None
        return (value / 1e6 if name in _BYTES else value, kld)

    every = [p for p in map(point, data["trials"]) if p]
    edge = sorted(p for p in (point(_record(data, n)) for n in data["front"]) if p)
    return every, edge


def _plots(data: Data, language: str) -> list[str]:
    figures = []
    for name, key in (("size_bytes", "size"), (_SPEED, "speed")):
        every, edge = _series(data, name)
        if not every:
            continue
        rows = [Line(text("search_points", language), every, 0)]
        rows.append(Line(text("search_front_line", language), edge, 1))
        if data["best"]:
            best = _record(data, data["best"]["trial"])["figures"]
            x = best[name] / 1e6 if name in _BYTES else best.get(name)
            if x is not None:
                rows.append(Line(text("search_best", language), [(x, best["kld"])], 2))
        figures.append(
            scatter(
                text(f"search_plot_{key}", language),
                rows,
                text(f"search_axis_{key}", language),
                text("search_axis_kld", language),
                data["budget"].get("max_kld"),
            )
        )
    return figures


def _write_plot(path: Path, data: Data) -> None:
    drawn = new_figure()
    names = [name for name in ("size_bytes", _SPEED) if _series(data, name)[0]]
    panels = drawn.subplots(1, max(1, len(names)), squeeze=False)[0]
    labels = {"size_bytes": "file, MB", _SPEED: "decode, tokens/s"}
    for axes, name in zip(panels, names, strict=False):
        every, edge = _series(data, name)
        axes.plot(*zip(*every, strict=True), "o", color="0.7", label="points tried")
        if edge:
            axes.plot(*zip(*edge, strict=True), "o-", color="tab:blue", label="front")
        if data["best"]:
            best = _record(data, data["best"]["trial"])["figures"]
            if best.get(name) is not None:
                x = best[name] / 1e6 if name in _BYTES else best[name]
                axes.plot([x], [best["kld"]], "*", color="tab:red", markersize=14, label="best")
        if (limit := data["budget"].get("max_kld")) is not None:
            axes.axhline(limit, color="tab:red", linestyle="--", label="budget")
        axes.set_xlabel(labels[name])
        axes.set_ylabel("KLD, nats")
        axes.set_yscale("log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="small")
    save_svg(drawn, path)


def _figure(name: str, value: float | None) -> str:
    if value is None:
        return MISSING
    return size(value) if name in _BYTES else figure(value)
