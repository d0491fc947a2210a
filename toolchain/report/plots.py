"""Small plots as inline SVG: no script, no font file, no network. Every string is escaped.

Text is SVG text in the page's own font; colours are CSS variables of the page, so that dark mode
and print need no second picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH = 340
_LABEL_HEIGHT, _BAR_HEIGHT, _GAP = 14, 12, 8
_CHARACTER = 6.1  # of the 11 px labels, for room at their ends


@dataclass(frozen=True)
class Bar:
    """A bar with whiskers from `low` to `high`; `color` is the number of a CSS colour."""

    label: str
    value: float
    low: float | None = None
    high: float | None = None
    color: int = 0
    text: str = ""


@dataclass(frozen=True)
class Line:
    """Points (x, y), x in rising order."""

    label: str
    points: Sequence[tuple[float, float]]
    color: int = 0


def bars(title: str, rows: Sequence[Bar], *, mark: float | None = None) -> str:
    """Horizontal bars from 0, each under its label; `mark` draws a line (1 for ratios)."""
    top = 6
    step = _LABEL_HEIGHT + _BAR_HEIGHT + _GAP
    room = max((len(row.text or number(row.value)) for row in rows), default=0) * _CHARACTER + 8
    span = WIDTH - room
    largest = max([row.high or row.value for row in rows] + [mark or 0, 1e-12])
    parts = []
    for i, row in enumerate(rows):
        y = top + i * step
        width = span * row.value / largest
        end = max(width, span * (row.high or 0) / largest)
        middle = y + _LABEL_HEIGHT + _BAR_HEIGHT / 2
        parts.append(_text(0, y + 10, row.label))
        parts.append(
            f'<rect class="c{row.color}" x="0" y="{y + _LABEL_HEIGHT}" width="{width:.1f}" '
            f'height="{_BAR_HEIGHT}" rx="2"/>'
        )
        if row.low is not None and row.high is not None:
            parts.append(_whisker(span * row.low / largest, span * row.high / largest, middle))
        parts.append(_text(end + 5, middle + 4, row.text or number(row.value), css="v"))
    height = top + len(rows) * step
    if mark is not None:  # across the bars only, so that labels stay legible
        x = span * mark / largest
        starts = [top + i * step + _LABEL_HEIGHT - 1 for i in range(len(rows))]
        path = "".join(f"M{x:.1f} {y}v{_BAR_HEIGHT + 3}" for y in starts)
        parts.append(f'<path class="mark" d="{path}"/>')
    return _figure(title, height, parts)


def lines(title: str, rows: Sequence[Line], x_title: str) -> str:
    """Lines over few x values, evenly spaced, y from 0; a legend below."""
    right, top, height = 14, 8, 150
    xs = sorted({x for row in rows for x, _ in row.points})
    largest = nice(max([y for row in rows for _, y in row.points] + [1e-12]))
    left = 8 + _CHARACTER * max(len(f"{largest * i / 4:,.6g}") for i in range(5))
    width = WIDTH - left - right
    at = {x: left + (width * i / max(1, len(xs) - 1)) for i, x in enumerate(xs)}
    parts = []
    for i in range(5):
        value = largest * i / 4
        y = top + height - height * i / 4
        parts.append(f'<path class="grid" d="M{left:.1f} {y:.1f}H{WIDTH - right}"/>')
        parts.append(_text(left - 4, y + 4, f"{value:,.6g}", css="v e"))
    for x in xs:
        parts.append(_text(at[x], top + height + 14, f"{x:g}", css="v m"))
    parts.append(_text(left + width / 2, top + height + 29, x_title, css="v m"))
    for row in rows:
        spots = [(at[x], top + height - height * y / largest) for x, y in row.points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        parts.append(f'<path class="s{row.color}" d="M{path}"/>')
        parts += [f'<circle class="c{row.color}" cx="{x:.1f}" cy="{y:.1f}" r="2.5"/>'
                  for x, y in spots]  # fmt: skip
    legend, y = _legend([(row.label, row.color) for row in rows], top + height + 46)
    return _figure(title, y + 8, [*parts, *legend])


def scatter(
    title: str,
    rows: Sequence[Line],
    x_title: str,
    y_title: str,
    limit: float | None = None,
    *,
    joined: bool = False,
) -> str:
    """Points on two true scales from 0, one label each; `joined` draws the lines between them.
    Above `limit` the ground is marked: the cliff."""
    right, top, height = 26, 22, 170
    points = [point for row in rows for point in row.points]
    most_x = nice(max([x for x, _ in points] + [1e-12]))
    highest = max([y for _, y in points] + [1e-12])
    if limit is not None and limit < 3 * highest:
        highest = max(highest, 1.15 * limit)
    most_y = nice(highest)
    left = 8 + _CHARACTER * max(len(_tick(most_y * i / 4)) for i in range(5))
    width = WIDTH - left - right

    def place(x: float, y: float) -> tuple[float, float]:
        return left + width * x / most_x, top + height - height * y / most_y

    parts = [_text(0, 11, y_title, css="v")]
    for i in range(5):
        (x, _), (_, y) = place(most_x * i / 4, 0), place(0, most_y * i / 4)
        parts.append(f'<path class="grid" d="M{left:.1f} {y:.1f}H{WIDTH - right}"/>')
        parts.append(_text(left - 4, y + 4, _tick(most_y * i / 4), css="v e"))
        parts.append(_text(x, top + height + 14, _tick(most_x * i / 4), css="v m"))
    parts.append(_text(left + width / 2, top + height + 29, x_title, css="v m"))
    if limit is not None and limit <= most_y:
        _, y = place(0, limit)
        parts.append(
            f'<rect class="beyond" x="{left:.1f}" y="{top}" width="{width:.1f}" '
            f'height="{y - top:.1f}"/><path class="cliff" d="M{left:.1f} {y:.1f}h{width:.1f}"/>'
        )
    for row in rows:
        spots = [place(x, y) for x, y in row.points]
        if joined and len(spots) > 1:
            path = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
            parts.append(f'<path class="s{row.color}" d="M{path}"/>')
        else:
            parts += [f'<circle class="c{row.color}" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/>'
                      for x, y in spots]  # fmt: skip
    legend, y = _legend([(row.label, row.color) for row in rows], top + height + 46)
    return _figure(title, y + 8, [*parts, *legend])


def number(value: float) -> str:
    """Three figures that count, thousands apart."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else "-"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:.{min(digits, 4)}f}"


def nice(value: float) -> float:
    """The least of 1, 2, 4, 6, 8, 10 times a power of ten that is no less."""
    unit = 10.0 ** math.floor(math.log10(value))
    return next(unit * n for n in (1, 2, 4, 6, 8, 10) if unit * n >= value * (1 - 1e-9))


def _figure(title: str, height: float, parts: Sequence[str]) -> str:
    name = escape(title, quote=True)
    return (
        f'<figure><figcaption>{name}</figcaption><svg viewBox="0 0 {WIDTH} {height:.0f}" '
        f'role="img" aria-label="{name}">{"".join(parts)}</svg></figure>'
    )


def _tick(value: float) -> str:
    """A number at an axis."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _legend(labels: Sequence[tuple[str, int]], y: float) -> tuple[list[str], float]:
    """Labels with their colours from height `y` on, and the height of the last line."""
    parts, x = [], 0.0
    for label, color in labels:
        needed = len(label) * _CHARACTER + 26
        if x + needed > WIDTH and x > 0:
            x, y = 0.0, y + 16
        parts.append(f'<rect class="c{color}" x="{x:.1f}" y="{y - 8}" width="9" height="9"/>')
        parts.append(_text(x + 13, y, label))
        x += needed
    return parts, y


def _whisker(low: float, high: float, y: float) -> str:
    return (
        f'<path class="w" d="M{low:.1f} {y:.1f}H{high:.1f}M{low:.1f} {y - 3:.1f}v6'
        f'M{high:.1f} {y - 3:.1f}v6"/>'
    )


def _text(x: float, y: float, text: str, css: str = "") -> str:
    kind = f' class="{css}"' if css else ""
    return f'<text{kind} x="{x:.1f}" y="{y:.1f}">{escape(text)}</text>'
