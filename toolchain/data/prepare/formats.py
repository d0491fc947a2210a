"""The forms of training data, and how a row of each becomes a conversation, a text, or a text with
its label."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from common.errors import UserError, near_names
from toolchain.data.prepare.labels import label_text

Message = dict[str, str]


@dataclass(frozen=True)
class Form:
    """Columns of a format; `build` makes an example of a row's values."""

    name: str
    required: tuple[str, ...]
    optional: tuple[str, ...]
    build: Callable[[Mapping[str, Any]], Example | None]


@dataclass(frozen=True)
class Example:
    """One row as it is written: a conversation, or a text, which may have a second one beside it
    and a label. Beside texts with labels, one without is for a classifier's teacher to judge."""

    messages: tuple[Message, ...] | None = None
    text: str | None = None
    text_pair: str | None = None
    label: str | None = None

    def record(self) -> dict[str, Any]:
        """The row of the output file."""
        if self.messages is not None:
            return {"messages": list(self.messages)}
        optional = {"text_pair": self.text_pair, "label": self.label}
        given = {name: value for name, value in optional.items() if value is not None}
        return {"text": self.text, **given}

    def parts(self) -> list[str]:
        """All that makes it this example and no other; a label is what is said of it."""
        if self.messages is None:
            return [part for part in (self.text, self.text_pair) if part is not None]
        return [part for m in self.messages for part in (m["role"], m["content"])]

    def prompt(self) -> str:
        """What is asked first (a text: all of it). Examples that share it stay in one split."""
        if self.messages is None:
            return self.text or ""
        return next(m["content"] for m in self.messages if m["role"] == "user")


class RowFault(Exception):
    """What is wrong with one row."""


def choose_form(name: str | None, found: Sequence[str], mapping: Mapping[str, str]) -> Form:
    """The format `name`, or the one that fits the columns `found` (a row's keys).

    `mapping`: the format's column → the file's. Raises `UserError` that names the columns found
    and the mapping to give.
    """
    unknown = [c for c in mapping if c not in {*COLUMNS}]
    if unknown:
        raise UserError(
            f"--map {unknown[0]}={mapping[unknown[0]]}: no format has a column '{unknown[0]}'",
            near_names(unknown[0], COLUMNS),
        )
    if name is not None:
        if name not in FORMS:
            raise UserError(f"unknown format '{name}'", near_names(name, FORMS))
        form = FORMS[name]
        missing = [c for c in form.required if mapping.get(c, c) not in found]
        if missing:
            raise _wrong_columns(form, missing, found, mapping)
        return form
    fitting = [
        form
        for form in FORMS.values()
        if all(mapping.get(column, column) in found for column in form.required)
    ]
    # text and label are columns enough for plain text too: what takes more of them is meant
    fitting = [
        form
        for form in fitting
        if not any(set(form.required) < set(other.required) for other in fitting)
    ]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        names = " and ".join(form.name for form in fitting)
        raise UserError(
            f"the columns ({', '.join(found)}) fit {names}",
            f"say which: --format {fitting[0].name}",
        )
    raise _wrong_columns(None, [], found, mapping)


def values(form: Form, row: Mapping[str, Any], mapping: Mapping[str, str]) -> dict[str, Any]:
    """The row's values under the format's own names; `RowFault` when a column is missing."""
    missing = [c for c in form.required if mapping.get(c, c) not in row]
    if missing:
        named = ", ".join(f"'{mapping.get(c, c)}'" for c in missing)
        raise RowFault(f"lacks {named}; found: {', '.join(row) or 'nothing'}")
    return {
        column: row[mapping.get(column, column)]
        for column in (*form.required, *form.optional)
        if mapping.get(column, column) in row
    }


def _text(row: Mapping[str, Any], column: str) -> str:
    value = row.get(column)
    if value is None:
        return ""
    if not isinstance(value, str):
        raise RowFault(f"'{column}' is {type(value).__name__}, not text: {value!r:.60}")
    return _encodable(column, value)


def _encodable(name: str, text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise RowFault(f"'{name}' has half a surrogate pair, which is no text") from None
    return text


def _pair(prompt: str, answer: str) -> Example | None:
    if not prompt.strip() or not answer.strip():
        return None
    return Example(({"role": "user", "content": prompt}, {"role": "assistant", "content": answer}))


def _alpaca(row: Mapping[str, Any]) -> Example | None:
    parts = [_text(row, "instruction"), _text(row, "input")]
    return _pair("\n\n".join(part for part in parts if part.strip()), _text(row, "output"))


def _qa(row: Mapping[str, Any]) -> Example | None:
    return _pair(_text(row, "question"), _text(row, "answer"))


def _plain(row: Mapping[str, Any]) -> Example | None:
    text = _text(row, "text")
    return Example(text=text) if text.strip() else None


def _classification(row: Mapping[str, Any]) -> Example | None:
    try:
        label = label_text(row["label"])
    except ValueError as error:
        raise RowFault(f"'label': {error}") from None
    text, pair = _text(row, "text"), _text(row, "text_pair")
    if not text.strip():
        return None
    pair_or_none = pair if pair.strip() else None
    own = None if label is None else _encodable("label", label)
    return Example(text=text, text_pair=pair_or_none, label=own)


def _chat(row: Mapping[str, Any]) -> Example | None:
    """Roles in order: an optional system, then user and assistant in turn, the assistant last."""
    listed = row["messages"]
    if isinstance(listed, str) and listed.strip():  # a column of a CSV file
        try:
            listed = json.loads(listed)
        except (ValueError, RecursionError) as error:
            raise RowFault(f"'messages' is broken JSON: {error}") from None
    if not listed:
        return None
    if not isinstance(listed, list):
        raise RowFault(f"'messages' is {type(listed).__name__}, not a list")
    messages = tuple(_message(number, m) for number, m in enumerate(listed, start=1))
    _require_order([m["role"] for m in messages])
    if any(not m["content"].strip() for m in messages if m["role"] != "system"):
        return None
    return Example(messages)


def _message(number: int, message: Any) -> Message:
    if not isinstance(message, dict):
        raise RowFault(f"message {number} is {type(message).__name__}, not role and content")
    for key in ("role", "content"):
        if not isinstance(message.get(key), str):
            found = type(message[key]).__name__ if key in message else "missing"
            raise RowFault(f"message {number}: '{key}' must be text, it is {found}")
    content = _encodable(f"message {number}", message["content"])
    return {"role": message["role"], "content": content}


def _require_order(roles: list[str]) -> None:
    first = 1 if roles[0] == "system" else 0
    for position, role in enumerate(roles[first:]):
        wanted = ("user", "assistant")[position % 2]
        if role != wanted:
            number = first + position + 1
            raise RowFault(f"message {number} has the role '{role}' where '{wanted}' must be")
    if roles[-1] != "assistant":
        raise RowFault(f"the last message is the {roles[-1]}'s; it must be the assistant's answer")


def _wrong_columns(
    form: Form | None, missing: Sequence[str], found: Sequence[str], mapping: Mapping[str, str]
) -> UserError:
    listed = ", ".join(found) or "none"
    absent = next((f"{c}={m}" for c, m in mapping.items() if m not in found), None)
    if absent:
        return UserError(
            f"--map {absent}: the file has no such column; found: {listed}",
            "the file's own column comes after the =",
        )
    if form is None:
        known = "; ".join(f"{f.name}: {', '.join(f.required)}" for f in FORMS.values())
        problem, wanted = (
            f"no format fits the columns found: {listed} (known: {known})",
            FORMS["qa"],
        )
        missing = wanted.required
    else:
        problem = f"format {form.name} needs {', '.join(missing)}; columns found: {listed}"
    spare = [c for c in found if c not in COLUMNS] or list(found) or ["COLUMN"]
    options = [f"--map {c}={spare[min(i, len(spare) - 1)]}" for i, c in enumerate(missing)]
    return UserError(problem, f"name the columns, for example: {' '.join(options)}")


FORMS = {
    form.name: form
    for form in (
        Form("alpaca", ("instruction", "output"), ("input",), _alpaca),
        Form("qa", ("question", "answer"), (), _qa),
        Form("chat", ("messages",), (), _chat),
        Form("classification", ("text", "label"), ("text_pair",), _classification),
        Form("text", ("text",), (), _plain),
    )
}
COLUMNS = tuple(
    dict.fromkeys(c for form in FORMS.values() for c in (*form.required, *form.optional))
)
