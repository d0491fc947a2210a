"""Texts with or without labels, for calibrating and measuring encoders: JSON lines.

A row has `text` (and `text_pair`), or `tokens` for token classification; `label` or, for tokens,
`labels` where answers are known. Labels are the model's names, or their numbers.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from runtimes.ort_encoder import TAG, EncoderFacts
from runtimes.protocol import Text

_TEXT, _PAIR, _WORDS, _LABEL, _LABELS = "text", "text_pair", "tokens", "label", "labels"
_LABEL_NAME = "label_name"
_ROWS = "write one JSON object on each line, with a column 'text' (or 'tokens', a list of words)"


@dataclass(frozen=True)
class Examples:
    """Texts, or words for a tagger, and where all rows have them the numbers of their labels
    (for a tagger one tuple per text)."""

    texts: tuple[Text, ...]
    words: tuple[tuple[str, ...], ...]
    labels: tuple[Any, ...] | None

    def __len__(self) -> int:
        return len(self.texts) or len(self.words)


def read_examples(
    file: Path, facts: EncoderFacts, *, purpose: str, least: int = 1, labelled: bool = False
) -> Examples:
    """The file's rows as the encoder takes them.

    Raises `UserError` when the file is missing, has fewer than `least` rows, lacks the columns, or
    has a label that the model does not know; with `labelled` also when labels are missing.
    """
    rows = _rows(file, purpose)
    if len(rows) < least:
        raise UserError(
            f"{file} has {len(rows)} rows, too few for {purpose}",
            f"give at least {least} rows like those that the model will see",
        )
    column = _WORDS if facts.task == TAG else _TEXT
    lacking = next((number for number, row in enumerate(rows, 1) if column not in row), None)
    if lacking is not None:
        found = ", ".join(map(str, rows[lacking - 1])) or "nothing"
        raise UserError(
            f"{file}, row {lacking}: {purpose} needs the column '{column}'; found: {found}",
            f"rename the column that holds the texts to '{column}'",
        )
    labels = _labels(file, rows, facts, labelled=labelled)
    if facts.task == TAG:
        words = tuple(_words(file, number, row) for number, row in enumerate(rows, 1))
        _require_lengths(file, words, labels)
        return Examples((), words, labels)
    texts = tuple(_text(file, number, row) for number, row in enumerate(rows, 1))
    return Examples(texts, (), labels)


def _rows(file: Path, purpose: str) -> list[dict[str, Any]]:
    if not file.is_file():
        raise UserError(f"{file} is missing, needed for {purpose}", "check the path")
    rows = []
    try:
        with file.open(encoding="utf-8") as stream:
            for number, line in enumerate(stream, 1):
                if not line.strip():
                    continue
                row = json.loads(line)
                if not isinstance(row, dict):
                    raise UserError(f"{file}, line {number} is no row of named columns", _ROWS)
                rows.append(row)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as JSON lines: {error}", _ROWS) from None
    if not rows:
        raise UserError(f"{file} is empty, needed for {purpose}", "give rows with a column 'text'")
    return rows


def _text(file: Path, number: int, row: dict[str, Any]) -> Text:
    text, pair = row[_TEXT], row.get(_PAIR)
    for value in (text, pair) if pair is not None else (text,):
        if not isinstance(value, str):
            raise UserError(f"{file}, row {number}: {type(value).__name__} is no text", _ROWS)
    return (text, pair) if pair else text


def _words(file: Path, number: int, row: dict[str, Any]) -> tuple[str, ...]:
    words = row[_WORDS]
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise UserError(f"{file}, row {number}: '{_WORDS}' must be a list of words", _ROWS)
    return tuple(words)


def _labels(
    file: Path, rows: Sequence[dict[str, Any]], facts: EncoderFacts, *, labelled: bool
) -> tuple[Any, ...] | None:
    column = _LABELS if facts.task == TAG else _LABEL
    if not facts.labels or facts.problem in {"regression", "multi_label_classification"}:
        return None
    missing = next((number for number, row in enumerate(rows, 1) if row.get(column) is None), None)
    if missing is not None:
        if labelled:
            raise UserError(
                f"{file}, row {missing} has no '{column}'",
                f"give every row the right answer in the column '{column}'",
            )
        return None
    found: list[Any] = []
    for number, row in enumerate(rows, 1):
        place = f"{file}, row {number}"
        if facts.task == TAG:
            listed = row[column] if isinstance(row[column], list) else [row[column]]
            found.append(tuple(_label(place, value, None, facts) for value in listed))
        else:
            found.append(_label(place, row[column], row.get(_LABEL_NAME), facts))
    return tuple(found)


def _label(place: str, value: Any, name: Any, facts: EncoderFacts) -> int:
    """The label's number in the model: by its name, else by the number that is given."""
    for candidate in (name, value):
        if isinstance(candidate, str) and candidate in facts.labels:
            return facts.labels.index(candidate)
    as_text = str(value)
    if as_text.isdigit() and int(as_text) < len(facts.labels):
        return int(as_text)
    raise UserError(
        f"{place}: the model has no label {value!r}", f"its labels: {', '.join(facts.labels)}"
    )


def _require_lengths(
    file: Path, words: Sequence[tuple[str, ...]], labels: tuple[Any, ...] | None
) -> None:
    for number, (text, given) in enumerate(zip(words, labels or (), strict=bool(labels)), 1):
        if len(text) != len(given):
            raise UserError(
                f"{file}, row {number}: {len(text)} tokens but {len(given)} labels",
                "give each word one label",
            )
