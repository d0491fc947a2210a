"""Markdown tables and figures for readers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from common.errors import plain

MISSING = "–"
_BYTES = ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"))


def table(columns: str, rows: Iterable[Sequence[object]]) -> str:
    """A table; `columns` are the headers with bars between them."""
    headers = [header.strip() for header in columns.split("|")]
    lines = [_line([escape(header) for header in headers]), _line(["---"] * len(headers))]
    lines += [_line([escape(str(cell)) for cell in row]) for row in rows]
    return "\n".join(lines)


def escape(text: str) -> str:
    """Text that stays one cell of a table: no HTML, no link, nothing that a terminal obeys."""
    text = text.replace("|", "\\|").replace("<", "&lt;").replace("](", "]\\(")
    return plain(" ".join(text.split()))


def figure(value: object) -> str:
    """A number with four significant digits, whole numbers as they are."""
    if isinstance(value, bool) or value is None:
        return MISSING if value is None else str(value)
    if isinstance(value, int) or (isinstance(value, float) and _is_whole(value)):
        return f"{value:.0f}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _is_whole(value: float) -> bool:
    return abs(value) >= 1000 or value.is_integer()


def size(count_bytes: float | None) -> str:
    """Bytes in decimal units."""
    if count_bytes is None:
        return MISSING
    unit_bytes, unit = next(((u, n) for u, n in _BYTES if count_bytes >= u), (1.0, "B"))
    return f"{count_bytes / unit_bytes:.4g} {unit}"


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def change(before: float, after: float) -> str:
    """How much more or less, in percent."""
    return f"{100 * (after / before - 1):+.1f} %"
