"""The advice for people, in English or Chinese, and for machines."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from toolchain.advise.questions import QUESTIONS
from toolchain.plan_report import size_text, speed_text
from toolchain.report.markdown import figure
from toolchain.report.strings import name_of, text

if TYPE_CHECKING:
    from toolchain.advise.case import Case
    from toolchain.advise.figures import Built, Estimate
    from toolchain.advise.rank import Advice, Ranked

_INDENT = 3


def advice_text(advice: Advice, case: Case, language: str) -> str:
    """The advice as a person reads it."""
    lines = [*_heading(case, language), ""]
    if not advice.ranked:
        lines += [text("advice_none", language), ""]
    for number, row in enumerate(advice.ranked, 1):
        title = row.option.title.of(language)
        lines.append(text("advice_row", language, rank=number, title=title, score=row.score))
        lines += [*_body(row, case, language), ""]
    for key, rows in (("advice_impossible", advice.impossible), ("advice_against", advice.against)):
        if rows:
            lines.append(text(key, language))
            lines += [f"  - {_refusal(row, case, language)}" for row in rows] + [""]
    if advice.notes:
        lines.append(text("advice_notes", language))
        lines += [f"  - {note.words.of(language)} [{note.source}]" for note in advice.notes] + [""]
    return "\n".join([*lines, text("advice_end", language)])


def advice_json(advice: Advice, case: Case, language: str) -> dict[str, Any]:
    """The advice as plain values."""
    from toolchain.advise.case import as_json

    return {
        "case": as_json(case),
        "ranked": [_row_json(row, case, language) for row in advice.ranked],
        "impossible": [_row_json(row, case, language) for row in advice.impossible],
        "against": [_row_json(row, case, language) for row in advice.against],
        "notes": [{"text": n.words.of(language), "source": n.source} for n in advice.notes],
    }


def _heading(case: Case, language: str) -> list[str]:
    said = [q.name for q in QUESTIONS if q.name not in (*case.assumed, "device")]
    lines = [
        text(
            "advice_case",
            language,
            model=case.info.name,
            kind=case.kind,
            parameters=f"{case.info.parameters / 1e6:.2f}",
            target=case.target.name,
            device=case.device,
        )
    ]
    for key, names in (("advice_said", said), ("advice_assumed", case.assumed)):
        values = [(name, getattr(case, name)) for name in names]
        answers = ", ".join(f"{_flag(n)} {_plain(v)}" for n, v in values if v is not None)
        if answers:
            lines.append(text(key, language, answers=answers))
    return lines


def _body(row: Ranked, case: Case, language: str) -> Iterator[str]:
    for rule in row.rules:
        key = "advice_why" if rule.weight > 0 else "advice_but"
        yield _line(key, language, f"{rule.reason.of(language)} [{rule.source}]")
    yield _line("advice_cost", language, row.option.cost.of(language))
    if row.hours is not None:
        yield _line("advice_cost", language, _hours("advice_hours", row, case, language))
    if row.training_bytes is not None:
        size = size_text(row.training_bytes)
        yield _line("advice_cost", language, text("advice_memory", language, size=size))
    if row.estimate is not None:
        yield _line("advice_expect", language, _estimated(row.estimate, language))
    if row.unfit and not case.fits:
        yield _line("advice_expect", language, text("advice_unfit", language))
    for built in row.measured:
        yield _line("advice_expect", language, _measured(built, language))
    for known in () if row.measured else row.option.expect:
        key = "advice_docs" if known.in_project else "advice_published"
        words = text(key, language, source=known.source, figure=known.of(language))
        yield _line("advice_expect", language, words)
    for command in row.commands:
        yield _line("advice_run", language, command)


def _refusal(row: Ranked, case: Case, language: str) -> str:
    title = row.option.title.of(language)
    if row.option.needs.unmet(case) and row.option.needs_words:
        needs = row.option.needs_words.of(language)
        return f"{title}: {text('advice_needs', language, needs=needs)}"
    if row.too_long:
        return f"{title}: {_hours('advice_too_long', row, case, language)}"
    if row.too_large:
        size, limit = size_text(row.training_bytes or 0), _plain(case.training_gib)
        return f"{title}: {text('advice_too_large', language, size=size, limit=limit)}"
    against = [rule for rule in row.rules if rule.weight < 0]
    return f"{title}: " + "; ".join(f"{r.reason.of(language)} [{r.source}]" for r in against)


def _hours(key: str, row: Ranked, case: Case, language: str) -> str:
    from toolchain.advise.rules import load_rules

    speed = load_rules().hardware[case.training]  # type: ignore[index]
    return text(
        key,
        language,
        hours=_duration(row.hours or 0),
        hardware=case.training,
        source=speed.source,
        limit=_plain(case.hours),
    )


def _duration(hours: float) -> str:
    return "< 0.1" if hours < 0.1 else f"{hours:.0f}" if hours >= 10 else f"{hours:.1f}"


def _estimated(found: Estimate, language: str) -> str:
    return text(
        "advice_estimate",
        language,
        type=found.quantization,
        size=size_text(found.size_bytes),
        memory=size_text(found.total_bytes),
        speed=speed_text(found.decode_tokens_per_sec),
    )


def _measured(built: Built, language: str) -> str:
    figures = [("mean KLD", built.mean_kld), ("task score kept", built.task_share)]
    listed = [f", {name_of(name, language)} {figure(v)}" for name, v in figures if v is not None]
    return text(
        "advice_built",
        language,
        folder=built.folder,
        model=built.model,
        target=built.target,
        type=built.quantization,
        size=size_text(built.size_bytes),
        figures="".join(listed),
    )


def _row_json(row: Ranked, case: Case, language: str) -> dict[str, Any]:
    needs = row.option.needs_words
    return {
        "option": row.name,
        "recipe": row.option.recipe,
        "title": row.option.title.of(language),
        "score": row.score,
        "reasons": [
            {"weight": r.weight, "text": r.reason.of(language), "source": r.source}
            for r in row.rules
        ],
        "cost": row.option.cost.of(language),
        "needs": needs.of(language) if needs and row.option.needs.unmet(case) else None,
        "training_hours": row.hours,
        "too_long": row.too_long,
        "training_bytes": row.training_bytes,
        "too_large": row.too_large,
        "estimate": dataclasses.asdict(row.estimate) if row.estimate else None,
        "measured": [{**dataclasses.asdict(b), "folder": str(b.folder)} for b in row.measured],
        "published": [{"text": e.of(language), "source": e.source} for e in row.option.expect],
        "commands": list(row.commands),
    }


def _line(key: str, language: str, words: str) -> str:
    return f"{' ' * _INDENT}{text(key, language):<7}{words}"


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _plain(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)
