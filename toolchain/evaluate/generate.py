"""A test set's answers from any kind of model, and the file of prompt, reference and answer."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import write_text
from toolchain.data.text import TaskExample
from toolchain.evaluate.task import TaskAnswer
from toolchain.models import OpenModel

SUFFIXES = (".jsonl", ".csv")
_SPARE_TOKENS = 8


def answer_task(
    model: OpenModel, examples: Sequence[TaskExample], max_tokens: int | None = None
) -> list[TaskAnswer]:
    """Greedy answers to the examples, each at most `max_tokens` long.

    By default an answer may be a little longer than the longest right one; beyond that it is wrong
    anyway. Raises `UserError` when a prompt does not fit the context.
    """
    prompts = [model.prompt_ids(example.messages) for example in examples]
    longest = max(len(model.runtime.tokenize(example.answer)) for example in examples)
    limit = max_tokens or longest + _SPARE_TOKENS
    needed = max(map(len, prompts)) + limit
    if needed > model.context_tokens:
        raise UserError(
            f"the longest prompt and its answer take {needed} tokens, "
            f"the context of {model.name} has {model.context_tokens}",
            "raise --context, lower --max-tokens, or leave long examples out",
        )
    made = model.runtime.generate_many(prompts, limit)
    return [
        TaskAnswer(
            prompt=example.messages[-1]["content"],
            expected=example.answer.strip(),
            answer=generation.text.strip(),
            stopped=generation.stopped,
        )
        for example, generation in zip(examples, made, strict=True)
    ]


def answer_rows(
    answers: Sequence[TaskAnswer], others: Sequence[TaskAnswer] | None = None
) -> list[dict[str, Any]]:
    """Rows of prompt, reference, answer and whether it is right; with `others` both models'."""
    rows: list[dict[str, Any]] = [
        {"prompt": a.prompt, "reference": a.expected, "answer": a.answer, "right": a.right}
        for a in answers
    ]
    if others is not None:
        for row, other in zip(rows, others, strict=True):
            row |= {"answer_other": other.answer, "right_other": other.right}
    return rows


def check_answers_path(path: Path) -> None:
    """Refuse before any work what could not be written after it."""
    if path.suffix not in SUFFIXES:
        raise UserError(
            f"--answers {path} has no known format", f"end its name in {' or '.join(SUFFIXES)}"
        )
    if not path.absolute().parent.is_dir():
        raise UserError(f"folder {path.absolute().parent} does not exist", "make it first")


def write_answers(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write the rows as JSONL or, by the name's ending, CSV with a header."""
    if path.suffix == ".csv":
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_text(path, text.getvalue())
    else:
        lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
        write_text(path, "".join(lines))
