"""Data files as examples: the format of each file is decided by its first row, once.

sources = open_sources((Path("reviews.csv"), Path("more-texts.jsonl")), streaming=True)
for where, example in sources.examples(path): ...
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import UserError
from toolchain.data.prepare.formats import Example, Form, RowFault, choose_form, values
from toolchain.data.prepare.readers import read_rows


@dataclass(frozen=True)
class Sources:
    """The files with the form of each. `mapping`, `cache` and `streaming` as `read_rows` and
    `values` take them."""

    forms: Mapping[Path, Form]
    mapping: Mapping[str, str]
    cache: Path | None
    streaming: bool

    @property
    def labelled(self) -> bool:
        """Whether they are for a classifier; plain texts among them have no label then."""
        return any(form.name == "classification" for form in self.forms.values())

    def examples(self, path: Path) -> Iterator[tuple[str, Example | RowFault | None]]:
        """What each row of a file is, with its place; None for an empty one."""
        form = self.forms[path]
        for where, row in read_rows(path, cache=self.cache, streaming=self.streaming):
            try:
                yield where, form.build(values(form, row, self.mapping))
            except RowFault as fault:
                yield where, fault


def open_sources(
    files: Sequence[Path],
    form: str | None = None,
    mapping: Mapping[str, str] | None = None,
    *,
    cache: Path | None = None,
    streaming: bool,
) -> Sources:
    """The files, in the format `form` or what their columns fit. Raises `UserError` for a file
    without rows, columns that fit none, and files that do not go together."""
    mapping = mapping or {}
    forms = {}
    for path in files:
        first = next(read_rows(path, cache=cache, streaming=streaming), None)
        if first is None:
            raise UserError(f"{path} has no rows", "give a file with rows in it")
        try:
            forms[path] = choose_form(form, list(first[1]), mapping)
        except UserError as error:
            raise UserError(f"{path}: {error.problem}", error.mend) from None
    found = Sources(forms, mapping, cache, streaming)
    names = {one.name for one in forms.values()}
    if found.labelled and not names <= {"classification", "text"}:
        raise UserError(
            f"the files are of different tasks: {', '.join(sorted(names))}",
            "prepare labels and conversations apart, each with its own --out",
        )
    return found
