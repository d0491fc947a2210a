"""The whole report of a bundle, in blocks: what HTML and Markdown show, in their order."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from common.shell import shell_line
from toolchain.report.acceptance import FAILED, NOT_MEASURED, PASSED, verdict
from toolchain.report.blocks import Block, Code, Plots, Section, Table, Text, Verdict
from toolchain.report.ledger import cliff_blocks, comparison, last_entry, ledger_blocks
from toolchain.report.markdown import MISSING, figure, size
from toolchain.report.plots import Bar, Line, bars, scatter
from toolchain.report.strings import spoken_name, text

_ANSWER_CHARACTERS = 300
Facts = Mapping[str, Any]


def title(facts: Facts, language: str) -> str:
    """The heading of a report."""
    manifest = facts["manifest"]
    return text("title", language, model=manifest["model"], target=manifest["target"]["name"])


def sections(facts: Facts, language: str) -> list[Section]:
    """Every section that has something to say."""
    with_ledger = facts["ledger"] is not None
    bodies: dict[str, Sequence[Block]] = {
        "": [_verdict(facts, language)],
        "comparison": comparison(facts, language) if with_ledger else (),
        "acceptance": _acceptance(facts, language),
        "cliff_title": cliff_blocks(facts, language) if with_ledger else (),
        "ledger": ledger_blocks(facts["ledger"], language) if with_ledger else (),
        "latency": _latency(facts, language),
        "answers": _answers(facts["manifest"], language),
        "deployment": _deployment(facts, language),
        "resources": _resources(facts["stages"], language),
        "reproduce": _reproduce(facts, language),
    }
    return [Section(key and text(key, language), body) for key, body in bodies.items() if body]


def _verdict(facts: Facts, language: str) -> Block:
    items, manifest = facts["acceptance"], facts["manifest"]
    counts = Counter(item["status"] for item in items)
    found = verdict(items)
    head = text(
        "accepted" if found == PASSED else "not_accepted",
        language,
        passed=counts[PASSED],
        failed=counts[FAILED],
        open=counts[NOT_MEASURED],
    )
    file = manifest["model_file"]
    line = text(
        "summary_line",
        language,
        type=manifest["quantization"],
        size=size(file["size_bytes"]),
        bits=figure(file["bits_per_weight"]),
        title=_target_title(manifest["target"], language),
    )
    if facts["ledger"] is not None:
        last = last_entry(facts["ledger"])
        ratio = figure(last["compression_ratio"])
        line += " " + text("summary_ratio", language, ratio=ratio)
    return Verdict(head, line, "pass" if found == PASSED else "fail")


def _target_title(target: Mapping[str, Any], language: str) -> str:
    return str(target.get("title_zh" if language == "zh-CN" else "title") or target["name"])


def _acceptance(facts: Facts, language: str) -> list[Block]:
    items = facts["acceptance"]
    rows = [
        [
            _named(item, language),
            text(f"part_{item['part']}", language),
            _value(item["measured"], item["unit"], language),
            _value(item["limit"], item["unit"], language),
            _status(item["status"], language),
        ]
        for item in items
    ]
    classes = {
        (i, 4): item["status"] for i, item in enumerate(items) if item["status"] in (PASSED, FAILED)
    }
    return [Table(_columns("acceptance_columns", language), rows, classes)]


def _latency(facts: Facts, language: str) -> list[Block]:
    """Time to first token over the smoke test's prompts, and the benchmark's requests."""
    blocks: list[Block] = []
    smoke = facts["smoke"] or {}
    times = sorted(a["ttft_sec"] for a in smoke.get("answers", []) if a.get("ttft_sec"))
    if times:
        ms = [1e3 * value for value in times]
        rows = [
            Bar(f"{low:.3g} – {high:.3g} ms", count, text=str(count))
            for low, high, count in _bins(ms)
        ]
        blocks.append(Plots([bars(text("ttft_plot", language, count=len(ms)), rows)]))
        values = [f"{_percentile(ms, share):.4g} ms" for share in (0.5, 0.95, 1.0)]
        name = spoken_name("ttft_sec", language)
        blocks.append(Table(["", "p50", "p95", "max"], [[name, *values]]))
    engines = (facts["benchmark"] or {}).get("engines") or []
    named = [e for e in engines if "request_latency" in e["figures"]]
    if named:
        table = [
            [e["name"], *(f"{1e3 * e['figures']['request_latency'][f'p{p}_sec']:.4g} ms"
                          for p in (50, 95, 99))]
            for e in named
        ]  # fmt: skip
        blocks.append(Table([text("request_latency", language), "p50", "p95", "p99"], table))
    return blocks


def _bins(values: Sequence[float], count: int = 6) -> list[tuple[float, float, int]]:
    """(low, high, how many) of equal widths."""
    low, high = min(values), max(values)
    width = (high - low) / count or 1.0
    found = Counter(min(int((value - low) / width), count - 1) for value in values)
    return [(low + i * width, low + (i + 1) * width, found[i]) for i in range(count)]


def _percentile(values: Sequence[float], share: float) -> float:
    """Of sorted values, the nearest rank."""
    return values[max(0, -(-int(share * 1000) * len(values) // 1000) - 1)]


def _answers(manifest: Mapping[str, Any], language: str) -> list[Block]:
    names = ("prompt", "reference", "before", "after")
    rows = [[_short(str(s[name])) for name in names] for s in manifest.get("samples") or []]
    if not rows:
        return []
    return [Table(_columns("answers_columns", language), rows, wraps=True)]


def _deployment(facts: Facts, language: str) -> list[Block]:
    blocks: list[Block] = []
    if smoke := facts["smoke"]:
        machine, engine = smoke["machine"], smoke["engine"]
        known = [machine.get("cpu"), machine.get("architecture")]
        where = ", ".join(str(part) for part in known if part)
        line = text("smoke_machine", language, machine=where, engine=engine.get("name", ""),
                    version=engine.get("version", ""))  # fmt: skip
        rows = [
            [
                spoken_name(check["name"], language),
                _value(check["value"], check["unit"], language),
                _value(check["limit"], check["unit"], language),
                _status(check["status"], language),
                check["note"],
            ]
            for check in smoke["checks"]
        ]
        blocks += [Text(line), Table(_columns("smoke_columns", language), rows)]
    else:
        blocks.append(Text(text("no_smoke", language)))
    if facts["devices"]:
        from toolchain.report.devices import device_columns, device_rows

        columns = device_columns(language)
        rows = [[c.strip("*") for c in row] for row in device_rows(facts["devices"], language)]
        blocks.append(Table(columns, rows))
    else:
        blocks.append(Text(text("no_device", language)))
    return blocks


def _resources(stages: Sequence[Mapping[str, Any]], language: str) -> list[Block]:
    """Memory and busy cores while the stages ran, one after the other, and each one's sum."""
    known = [(stage, stage["cost"]) for stage in stages if stage.get("cost")]
    if not known:
        return []
    memory: list[tuple[float, float]] = []
    cores: list[tuple[float, float]] = []
    start = 0.0
    for _, cost in known:
        for sec, rss_bytes, busy in cost["series"]:
            memory.append((start + sec, rss_bytes / 1e9))
            cores.append((start + sec, busy))
        start += cost["wall_sec"]
    rows = [
        [
            stage["stage"],
            f"{figure(cost['wall_sec'])} s",
            size(cost["peak_rss_bytes"]),
            MISSING if cost["joules"] is None else f"{figure(cost['joules'])} J",
            text("reused" if stage["reused"] else "made_now", language),
        ]
        for stage, cost in known
    ]
    axis = text("seconds", language)
    plots = [
        scatter(text(key, language), [Line(text(key, language), points, color)], axis, unit,
                joined=True)
        for key, points, color, unit in (
            ("memory_plot", memory, 1, "GB"),
            ("cores_plot", cores, 2, text("cores", language)),
        )
    ]  # fmt: skip
    return [Plots(plots), Table(_columns("resources_columns", language), rows)]


def _reproduce(facts: Facts, language: str) -> list[Block]:
    import yaml

    manifest = facts["manifest"]
    recipe = {key: value for key, value in manifest["recipe"].items() if key != "name"}
    name = manifest["recipe"].get("name") or "export"
    words = ["--target", manifest["target"]["name"], "--recipe", name]
    words += ["--quantization", manifest["quantization"], "--model", "PATH_OR_HUB_ID"]
    command = shell_line("edgeforge", "build", *words)
    versions = ", ".join(f"{tool} {number}" for tool, number in manifest["versions"].items())
    base = manifest["base"]
    rows = [
        [text("base", language, count=len(base["files"])), base["digest"]],
        [text("file", language), manifest["model_file"]["sha256"]],
        [text("versions", language), versions],
        [text("license", language), manifest["licences"]["model"] or text("unknown", language)],
    ]
    shown = yaml.safe_dump(recipe, allow_unicode=True, sort_keys=False)
    return [
        Text(text("reproduce_note", language)),
        Code(command),
        Table(_columns("provenance_columns", language), rows, wraps=True),
        Text(text("reproduce_recipe", language), soft=True),
        Code(shown.rstrip()),
    ]


def _value(value: Any, unit: str, language: str) -> str:
    if value is None:
        return MISSING
    if isinstance(value, str):
        return _status(value, language)
    if unit == "bytes":
        return size(value)
    return f"{value:.1%}" if unit == "share" else f"{figure(value)} {unit}".strip()


def _status(status: str, language: str) -> str:
    """The word alone: tables have colours for what the Markdown tables make bold."""
    return text(status, language).strip("*")


def _named(item: Mapping[str, Any], language: str) -> str:
    """The item's name; a device keeps its own."""
    name = str(item["name"])
    if name in ("smoke_test", "target_device"):
        return text(name, language)
    return name if item["part"] == "device" else spoken_name(name, language)


def _short(said: str) -> str:
    return said if len(said) <= _ANSWER_CHARACTERS else f"{said[: _ANSWER_CHARACTERS - 1]}…"


def _columns(key: str, language: str) -> list[str]:
    return [column.strip() for column in text(key, language).split("|")]
