"""A report as blocks, so that HTML and Markdown say the same: each block knows both forms.

Strings from outside (model names, answers, errors, CPU names) are escaped here and nowhere else.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from toolchain.report.markdown import escape, table

# A table with no more fits a phone once its cells break; one with more scrolls.
_FEW_COLUMNS = 5
_STYLE = Path(__file__).with_name("page.css")


class Block(Protocol):
    """One piece of a section."""

    def as_html(self) -> str: ...

    def as_markdown(self) -> str: ...


@dataclass(frozen=True)
class Text:
    """A paragraph; `soft` is for what explains a table or a plot."""

    text: str
    soft: bool = False

    def as_html(self) -> str:
        css = ' class="soft"' if self.soft else ""
        return f"<p{css}>{html.escape(self.text)}</p>"

    def as_markdown(self) -> str:
        return escape(self.text)


@dataclass(frozen=True)
class Verdict:
    """The first words of a report; `kind` is pass, fail or nothing."""

    head: str
    text: str
    kind: str = ""

    def as_html(self) -> str:
        head, text = html.escape(self.head), html.escape(self.text)
        return f'<div class="verdict {self.kind}"><b>{head}</b><p>{text}</p></div>'

    def as_markdown(self) -> str:
        return f"**{escape(self.head)}** {escape(self.text)}"


@dataclass(frozen=True)
class Table:
    """Rows of texts. `classes` are CSS classes of cells by (row, column); `wraps` is for tables of
    sentences, whose cells break."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    classes: Mapping[tuple[int, int], str] = field(default_factory=dict)
    wraps: bool = False

    def as_html(self) -> str:
        head = "".join(f"<th>{html.escape(column)}</th>" for column in self.columns)
        body = "".join(f"<tr>{self._cells(i)}</tr>" for i in range(len(self.rows)))
        kind = "text" if self.wraps else "many" if len(self.columns) > _FEW_COLUMNS else ""
        css = f' class="{kind}"' if kind else ""
        inside = f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody>"
        return f'<div class="wide"><table{css}>{inside}</table></div>'

    def as_markdown(self) -> str:
        return table("|".join(map(escape, self.columns)), self.rows)

    def _cells(self, row: int) -> str:
        cells = []
        for column, cell in enumerate(self.rows[row]):
            name = self.classes.get((row, column))
            css = f' class="{name}"' if name else ""
            cells.append(f"<td{css}>{html.escape(cell)}</td>")
        return "".join(cells)


@dataclass(frozen=True)
class Plots:
    """Inline SVG figures side by side; Markdown has their tables alone."""

    figures: Sequence[str]

    def as_html(self) -> str:
        return f'<div class="plots">{"".join(self.figures)}</div>'

    def as_markdown(self) -> str:
        return ""


@dataclass(frozen=True)
class Code:
    """Commands or a file's text."""

    text: str

    def as_html(self) -> str:
        return f"<pre>{html.escape(self.text)}</pre>"

    def as_markdown(self) -> str:
        fence = "````"
        return f"{fence}\n{self.text.replace(fence, '``')}\n{fence}"


@dataclass(frozen=True)
class Section:
    """A heading with what stands below it."""

    title: str
    blocks: Sequence[Block]


def markdown_page(title: str, sections: Sequence[Section]) -> str:
    """The sections as Markdown."""
    parts = [f"# {escape(title)}"]
    for section in sections:
        if section.title:
            parts.append(f"## {escape(section.title)}")
        parts += [block.as_markdown() for block in section.blocks]
    return _writable("\n\n".join(part for part in parts if part) + "\n")


def html_section(code: str, title: str, sections: Sequence[Section]) -> str:
    """One language's part of a page."""
    parts = [f"<h1>{html.escape(title)}</h1>"]
    for section in sections:
        if section.title:
            parts.append(f"<h2>{html.escape(section.title)}</h2>")
        parts += [block.as_html() for block in section.blocks]
    return f'<section class="lang" id="{code}" lang="{code}">{"".join(parts)}</section>\n'


def html_page(title: str, languages: Mapping[str, str], sections: str) -> str:
    """A whole page without script or network: `languages` are names by code, `sections` their
    parts in the same order."""
    links = "".join(f'<a href="#{code}">{name}</a>' for code, name in languages.items())
    return _writable(
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{html.escape(title)}</title><style>\n{_STYLE.read_text(encoding='utf-8')}"
        f"</style></head>\n<body><nav>{links}</nav>{sections}</body></html>\n"
    )


def _writable(text: str) -> str:
    """The text with half surrogates, which JSON can hold and no file can, as escapes."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")
