"""Which texts an encoder's INT8 form is calibrated, chosen and finally tested on: three sets that
share no row.

With prepared data: train, validation and test. With a labelled task alone: its even rows choose,
its odd ones test. With plain text alone: the same, by documents, without labels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import sha256_json, write_text
from toolchain.evaluate.classify import Settings, read_labelled
from toolchain.stage import Input

if TYPE_CHECKING:
    from toolchain.job import Job

Row = Mapping[str, Any]
_DOCUMENT_CHARACTERS = 400


@dataclass(frozen=True)
class EncoderTexts:
    """JSON lines of `text` [, `text_pair`] [, `label`]."""

    calibration: Input
    measurement: Input
    test: Input


def encoder_texts(job: Job) -> EncoderTexts:
    """The job's texts as files in its workspace."""
    calibration = [{"text": piece} for piece in _pieces(job.texts.calibration.documents)]
    rows = labelled_rows(job.texts.task.path) if job.texts.task else None
    validation = job.texts.data / "validation.jsonl" if job.texts.data else None
    if rows and validation and validation.is_file() and validation.stat().st_size:
        return EncoderTexts(
            calibration=_file(job, calibration),
            measurement=_file(job, labelled_rows(validation)),
            test=_file(job, rows),
        )
    pieces = rows or [{"text": piece} for piece in _pieces(job.texts.evaluation.documents)]
    return EncoderTexts(
        calibration=_file(job, calibration),
        measurement=_file(job, pieces[0::2]),
        test=_file(job, pieces[1::2]),
    )


def labelled_rows(path: Path, examples: int | None = None) -> list[Row]:
    """Rows of text [, text_pair] and label, whatever kind of file they come from."""
    data = read_labelled(path, Settings(examples=examples))
    return [
        {"text": text, "label": label}
        if isinstance(text, str)
        else {"text": text[0], "text_pair": text[1], "label": label}
        for text, label in zip(data.texts, data.labels, strict=True)
    ]


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
