"""The same rows in the teacher's tokens, beside the student's: `teacher-train.arrow` and
`teacher-validation.arrow`, row by row as the encoded splits.

A row holds the teacher's `input_ids` and, for each learned place of the student, the position of
the teacher's logits that predict from the same text (`index`, -1: none). A classifier's row is
learned as a whole.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from toolchain.compress.distill.universal.align import aligned, message_borders
from toolchain.data.prepare.encode import IGNORED, render
from toolchain.train.batches import Rows
from toolchain.train.examples import Row, split_rows
from toolchain.train.job import TRAIN_FILE, VALIDATION_FILE, Kind

BESIDE = "teacher-"
_PART = 2000


def write_rows(
    data: Path, folder: Path, kind: Kind, tokenizers: tuple[Any, Any], most_tokens: int
) -> tuple[int, int]:
    """Write the teacher's rows beside the student's in `folder`, for tokenizers of student and
    teacher; learned places, and how many of them are compared. Raises `UserError` when a tokenizer
    cannot say which characters its tokens are, or no place would be compared."""
    for tokenizer in tokenizers:
        if not tokenizer.is_fast:
            raise UserError(
                f"{type(tokenizer).__name__} does not tell which characters its tokens are",
                "give checkpoints with tokenizer.json",
            )
    places = compared = 0
    for split, file in (("train", TRAIN_FILE), ("validation", VALIDATION_FILE)):
        own = Rows(folder / file, kind, 0)
        given = split_rows(data, split, unlabelled=True)
        made = _rows(given, own, kind, tokenizers, most_tokens)
        counts = _write(made, folder / f"{BESIDE}{file}")
        places, compared = places + counts[0], compared + counts[1]
    if not compared:
        raise UserError(
            "teacher and student never read the same text",
            "their chat templates change the messages: give rows with text",
        )
    return places, compared


def _rows(
    given: Iterator[tuple[str, Row]],
    own: Rows,
    kind: Kind,
    tokenizers: tuple[Any, Any],
    most_tokens: int,
) -> Iterator[dict[str, Any]]:
    """A row for each of `own`, which were made of the same rows in the same order."""
    number = 0
    student, teacher = tokenizers
    for where, row in given:
        if kind == "classification":
            ids = teacher(row["text"], row.get("text_pair"), truncation=True,
                          max_length=most_tokens)["input_ids"]  # fmt: skip
            yield {"input_ids": ids, "index": [0]}
            continue
        mine = _spans(student, row)
        if not mine[0]:  # an empty text is no row
            continue
        stored = own[number]
        number += 1
        labels = stored["labels"]
        if mine[0][: len(labels)] != stored["input_ids"]:
            raise UserError(f"{where} was encoded differently", "run it again")
        places = [i for i in range(1, len(labels)) if labels[i] != IGNORED]
        ids, theirs = _spans(teacher, row)
        ids = ids[:most_tokens]
        texts = _messages(row)
        index = aligned(
            message_borders(mine[1], _text(student, row), texts),
            message_borders(theirs, _text(teacher, row), texts),
            places,
            len(ids),
        )
        yield {"input_ids": ids, "index": index}


def _write(rows: Iterator[dict[str, Any]], path: Path) -> tuple[int, int]:
    """Write the rows part by part; places, and those that are compared."""
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    schema = pa.schema([("input_ids", ids), ("index", ids)])
    places = compared = 0
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_stream(sink, schema) as stream:
        while part := list(itertools.islice(rows, _PART)):
            stream.write_batch(pa.RecordBatch.from_pylist(part, schema))
            places += sum(len(row["index"]) for row in part)
            compared += sum(position >= 0 for row in part for position in row["index"])
    return places, compared


def _messages(row: Mapping[str, Any]) -> Sequence[str]:
    if "messages" in row:
        return [message["content"] for message in row["messages"]]
    return [row["text"]]


def _text(tokenizer: Any, row: Mapping[str, Any]) -> str:
    if "messages" in row:
        return render(tokenizer, row["messages"], prompt=False)
    return str(row["text"])


def _spans(tokenizer: Any, row: Mapping[str, Any]) -> tuple[list[int], list[tuple[int, int]]]:
    found = tokenizer(
        _text(tokenizer, row),
        add_special_tokens="messages" not in row,
        return_offsets_mapping=True,
        verbose=False,
    )
    return list(found["input_ids"]), [tuple(span) for span in found["offset_mapping"]]
