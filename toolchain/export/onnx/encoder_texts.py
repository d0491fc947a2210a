"""Which texts an encoder's INT8 form is calibrated, chosen and finally tested on: three sets that
share no row.

With prepared data: train, validation and test. With a labelled task alone: its even rows choose,
its odd ones test. With plain text alone: the same, by documents, without labels.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import read_object, sha256_json, write_text
from toolchain.checkpoint.inspect import CONFIG
from toolchain.data.prepare.readers import read_rows
from toolchain.encoder_kinds.checkpoint import gives_one_label, task_of
from toolchain.encoders import CLASSIFICATION, TAGGING
from toolchain.evaluate.classify import Settings, read_labelled
from toolchain.stage import Input

if TYPE_CHECKING:
    from toolchain.job import Job

Row = Mapping[str, Any]
_DOCUMENT_CHARACTERS = 400
_TAGGED, _PLAIN = ("tokens", "labels"), ("text", "text_pair")


@dataclass(frozen=True)
class EncoderTexts:
    """JSON lines of `text` [, `text_pair`] [, `label`]; of `tokens` [, `labels`] for a tagger."""

    calibration: Input
    measurement: Input
    test: Input


def encoder_texts(job: Job) -> EncoderTexts:
    """The job's texts as files in its workspace."""
    checkpoint = job.source.path
    tags = task_of(checkpoint) == TAGGING
    calibration = _rows_of(job.texts.calibration.documents, tags)
    rows = task_rows(job.texts.task.path, checkpoint) if job.texts.task else None
    validation = job.texts.data / "validation.jsonl" if job.texts.data else None
    if rows and validation and validation.is_file() and validation.stat().st_size:
        return EncoderTexts(
            calibration=_file(job, calibration),
            measurement=_file(job, task_rows(validation, checkpoint)),
            test=_file(job, rows),
        )
    pieces = rows or _rows_of(job.texts.evaluation.documents, tags)
    return EncoderTexts(
        calibration=_file(job, calibration),
        measurement=_file(job, pieces[0::2]),
        test=_file(job, pieces[1::2]),
    )


def task_rows(path: Path, checkpoint: Path, examples: int | None = None) -> list[Row]:
    """The first rows of a test set as far as the checkpoint's head can use them: labels only where
    it gives one for each text, or for each word."""
    task = task_of(checkpoint)
    if task == CLASSIFICATION and gives_one_label(read_object(checkpoint / CONFIG)):
        return _labelled_rows(path, examples)
    columns = _TAGGED if task == TAGGING else _PLAIN
    found = itertools.islice(read_rows(path, cache=None, streaming=True), examples)
    return [{name: row[name] for name in columns if row.get(name)} for _, row in found]


def _labelled_rows(path: Path, examples: int | None) -> list[Row]:
    """Rows of text [, text_pair] and label, whatever kind of file they come from."""
    data = read_labelled(path, Settings(examples=examples))
    return [
        {"text": text, "label": label}
        if isinstance(text, str)
        else {"text": text[0], "text_pair": text[1], "label": label}
        for text, label in zip(data.texts, data.labels, strict=True)
    ]


def _rows_of(documents: Sequence[str], tags: bool) -> list[Row]:
    pieces = _pieces(documents)
    return [{"tokens": piece.split()} if tags else {"text": piece} for piece in pieces]


def _pieces(documents: Sequence[str]) -> list[str]:
    """Lines of the documents that hold words, none longer than a short paragraph."""
    lines = [line.strip() for document in documents for line in document.splitlines()]
    return [line[:_DOCUMENT_CHARACTERS] for line in lines if len(line.split()) > 1 or len(line) > 8]


def _file(job: Job, rows: Sequence[Row]) -> Input:
    digest = sha256_json([dict(row) for row in rows])
    path = job.workspace.stages / f"texts-{digest[:16]}.jsonl"
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return Input(digest=digest, path=path)
