"""Prepared rows as token ids: what a row must hold, and what of it is learned."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from toolchain.data.prepare.encode import UNLABELLED, Encoded, TooLong, encode_chat, encode_text
from toolchain.data.prepare.split import UNLABELLED_FILE
from toolchain.train.job import Kind

Row = Mapping[str, Any]
_AGAIN = "prepare the data again: edgeforge data prepare FILE --out DIR"


@dataclass(frozen=True)
class Classified:
    """A text for a classifier; `label` is the number of its class, or `UNLABELLED`."""

    input_ids: list[int]
    token_type_ids: list[int] | None
    label: int
    truncated: bool


def read_rows(path: Path) -> Iterator[tuple[str, Row]]:
    """Rows of a split with their place (`train.jsonl line 3`). Raises `UserError` for broken
    JSON."""
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            where = f"{path.name} line {number}"
            try:
                row = json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(f"{where} is broken JSON: {error}", _AGAIN) from None
            if not isinstance(row, dict):
                raise UserError(f"{where} is no object", _AGAIN)
            yield where, row


def kind_of(row: Row, where: str) -> Kind:
    """What a row is for: one with a label for a classifier, else for a language model."""
    if "label" in row and "text" in row:
        return "classification"
    if "messages" in row or "text" in row:
        return "causal"
    raise UserError(
        f"{where} has neither messages nor text; found: {', '.join(map(str, row)) or 'nothing'}",
        "prepare the data: edgeforge data prepare FILE --out DIR",
    )


def labels_of(path: Path) -> tuple[str, ...]:
    """The classes of a split, sorted. Raises `UserError` when there are fewer than two."""
    labels = sorted({_label(where, row) for where, row in read_rows(path)})
    if len(labels) < 2:
        raise UserError(
            f"all rows of {path.name} have the label '{labels[0]}'", "give rows of two classes"
        )
    return tuple(labels)


def causal_encoder(
    tokenizer: Any, max_tokens: int, *, answers_only: bool
) -> Callable[[str, Row], Encoded]:
    """A function of place and row. It raises `UserError` for a row that cannot be learned."""

    def encode(where: str, row: Row) -> Encoded:
        if kind_of(row, where) != "causal":
            raise UserError(
                f"{where} has a label, the rows before have none", "give rows of one kind"
            )
        if "messages" not in row:
            return encode_text(tokenizer, row["text"], max_tokens)
        encoded = encode_chat(tokenizer, row["messages"], max_tokens, answers_only)
        longest = max(encoded.answer_tokens, default=0)
        if longest > max_tokens:
            raise TooLong(f"the answer has {longest} tokens; the context holds {max_tokens}")
        return encoded

    return encode


def split_rows(data: Path, name: str, *, unlabelled: bool) -> Iterator[tuple[str, Row]]:
    """The rows of a split with their place, none where it is not there; after those of train, where
    they count, a classifier's texts without a label (None)."""
    if (path := data / f"{name}.jsonl").is_file():
        yield from read_rows(path)
    if unlabelled and name == "train" and (path := data / UNLABELLED_FILE).is_file():
        yield from ((where, {**row, "label": None}) for where, row in read_rows(path))


def class_encoder(
    tokenizer: Any, max_tokens: int, labels: tuple[str, ...]
) -> Callable[[str, Row], Classified]:
    """A function of place and row. It raises `UserError` for a label that training never sees; a
    row whose label is None has none."""
    numbers = {label: number for number, label in enumerate(labels)}

    def encode(where: str, row: Row) -> Classified:
        number = UNLABELLED
        if row.get("label", "") is not None:
            label = _label(where, row)
            if label not in numbers:
                raise UserError(
                    f"the label '{label}' is not in train (there: {', '.join(labels)})",
                    "add rows with it to train, or leave it out",
                )
            number = numbers[label]
        pair = row.get("text_pair")
        whole = tokenizer(row["text"], pair, truncation=False, verbose=False)["input_ids"]
        cut = tokenizer(row["text"], pair, truncation=True, max_length=max_tokens)
        return Classified(
            list(cut["input_ids"]),
            list(cut["token_type_ids"]) if "token_type_ids" in cut else None,
            number,
            truncated=len(whole) > max_tokens,
        )

    return encode


def _label(where: str, row: Row) -> str:
    if kind_of(row, where) != "classification" or not isinstance(row["label"], str):
        raise UserError(f"{where} has no label that is text", _AGAIN)
    return str(row["label"])
