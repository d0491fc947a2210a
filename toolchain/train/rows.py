"""Prepared rows as token ids in Arrow files, which training reads through memory mapping.

    rows = encode_split(task, "train", folder)      # once; a killed run finds the file again

Files may be larger than memory: rows are read, encoded and written one by one (packing works on
windows of `_PACK_WINDOW` rows).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import PARTIAL_SUFFIX
from toolchain.data.prepare.encode import IGNORED, TooLong, encode_chat, encode_text, pack
from toolchain.train.settings import Finetune

CAUSAL_LM, CLASSIFICATION = "causal-lm", "classification"
LONGEST_DEFAULT_TOKENS = 2048
_PACK_WINDOW = 10_000
_BATCH_ROWS = 256


@dataclass(frozen=True)
class Task:
    """What is learned, from which folder. `labels` in the order of their ids; for classification
    only. `max_tokens` bounds a row."""

    kind: str
    data: Path
    tokenizer: Any
    settings: Finetune
    max_tokens: int
    labels: tuple[str, ...] = ()


def task_of(data: Path, tokenizer: Any, settings: Finetune, context_tokens: int | None) -> Task:
    """The task that the folder's rows ask for. Raises `UserError` when there is nothing to train
    on, a label is held out alone, or `max_tokens` exceeds the model's context."""
    first = next(read_split(data, "train"), None)
    if first is None:
        raise UserError(f"{data} has no rows to train on", "give train.jsonl some rows")
    wanted, limit = settings.max_tokens, context_tokens or LONGEST_DEFAULT_TOKENS
    if wanted and context_tokens and wanted > context_tokens:
        raise UserError(
            f"max_tokens {wanted} exceeds the model's context of {context_tokens} tokens",
            f"give at most {context_tokens}",
        )
    max_tokens = wanted or min(limit, LONGEST_DEFAULT_TOKENS)
    if "label" not in first[1]:
        return Task(CAUSAL_LM, data, tokenizer, settings, max_tokens)
    labels = sorted({_label(where, row) for where, row in read_split(data, "train")})
    if len(labels) < 2:
        raise UserError(f"{data} has one label only: {labels[0]}", "give rows of two or more")
    for split in ("validation", "test"):
        for where, row in read_split(data, split):
            if _label(where, row) not in labels:
                raise UserError(
                    f"{where} has the label '{row['label']}', which no training row has",
                    "give training rows of every label",
                )
    return Task(CLASSIFICATION, data, tokenizer, settings, max_tokens, tuple(labels))


def read_split(data: Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of a prepared split; nothing when it is not there."""
    path = data / f"{split}.jsonl"
    if not path.is_file():
        return
    with path.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise UserError(f"{path.name} line {number} is no JSON: {error}") from None
            if not isinstance(row, dict):
                raise UserError(f"{path.name} line {number} is no JSON object")
            yield f"{path.name} line {number}", row


def encode_split(task: Task, split: str, folder: Path) -> Any:
    """The split as a `datasets.Dataset` on disk; None without rows.

    Columns: `input_ids`, `labels` (a list, or the label's id), packed rows also `position_ids`,
    pairs of texts `token_type_ids` where the tokenizer makes them. Raises `UserError` naming the
    row that cannot be trained on.
    """
    from datasets import Dataset
    from datasets.arrow_writer import ArrowWriter

    path = folder / f"{split}.arrow"
    if not path.is_file():
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{split}{PARTIAL_SUFFIX}"
        with ArrowWriter(path=str(partial), writer_batch_size=_BATCH_ROWS) as writer:
            count = 0
            for row in _encoded(task, split):
                writer.write(row)
                count += 1
            if count:
                writer.finalize()
        if not count:
            partial.unlink(missing_ok=True)
            return None
        partial.replace(path)
    return Dataset.from_file(str(path))


def _encoded(task: Task, split: str) -> Iterator[dict[str, Any]]:
    rows = read_split(task.data, split)
    if task.kind == CLASSIFICATION:
        return (_classified(task, where, row) for where, row in rows)
    examples = (_example(task, where, row) for where, row in rows)
    if task.settings.packing and split == "train":
        return _packed(examples, task.max_tokens)
    return ({"input_ids": e.input_ids, "labels": e.labels} for e in examples)


def _example(task: Task, where: str, row: dict[str, Any]) -> Any:
    if isinstance(row.get("text"), str):
        return encode_text(task.tokenizer, row["text"], task.max_tokens)
    if not isinstance(row.get("messages"), list):
        raise UserError(
            f"{where} has no 'messages' and no 'text'; found: {', '.join(sorted(row))}",
            "make the folder with `edgeforge data prepare`",
        )
    try:
        answers_only = task.settings.loss_on == "answers"
        found = encode_chat(task.tokenizer, row["messages"], task.max_tokens, answers_only)
    except TooLong as error:
        raise UserError(f"{where}: {error.problem}", error.mend) from None
    except UserError as error:
        raise UserError(f"{where}: {error.problem}", error.mend) from None
    if max(found.answer_tokens, default=0) > task.max_tokens:
        raise UserError(
            f"{where}: the answer has {max(found.answer_tokens)} tokens, the limit is "
            f"{task.max_tokens}",
            "raise max_tokens, shorten it, or prepare the data with --drop-long",
        )
    return found


def _packed(examples: Iterator[Any], max_tokens: int) -> Iterator[dict[str, Any]]:
    while window := list(itertools.islice(examples, _PACK_WINDOW)):
        for row in pack(window, max_tokens):
            yield {
                "input_ids": row.input_ids,
                "labels": row.labels,
                "position_ids": row.position_ids,
            }


def _classified(task: Task, where: str, row: dict[str, Any]) -> dict[str, Any]:
    text, pair = row.get("text"), row.get("text_pair")
    if not isinstance(text, str) or not (pair is None or isinstance(pair, str)):
        raise UserError(f"{where} has no 'text'; found: {', '.join(sorted(row))}")
    found = task.tokenizer(text, pair, truncation=True, max_length=task.max_tokens)
    kept = {name: found[name] for name in ("input_ids", "token_type_ids") if name in found}
    return {**kept, "labels": task.labels.index(_label(where, row))}


def _label(where: str, row: dict[str, Any]) -> str:
    label = row.get("label")
    if not isinstance(label, str):
        raise UserError(f"{where} has no label", "make the folder with `edgeforge data prepare`")
    return label


def collator(pad_token_id: int) -> Callable[[Sequence[dict[str, Any]]], dict[str, Any]]:
    """Rows as a batch, padded on the right to the longest.

    Packed rows go without an attention mask: transformers then keeps their examples apart by where
    `position_ids` restart (padding restarts at every token), and windows of attention stay as they
    are.
    """
    import torch

    fills = {"input_ids": pad_token_id, "labels": IGNORED, "position_ids": 0, "token_type_ids": 0}

    def collate(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
        longest = max(len(row["input_ids"]) for row in rows)
        batch: dict[str, Any] = {}
        for name in rows[0]:
            if isinstance(rows[0][name], int):
                batch[name] = torch.tensor([row[name] for row in rows])
                continue
            padded = [row[name] + [fills[name]] * (longest - len(row[name])) for row in rows]
            batch[name] = torch.tensor(padded)
        if "position_ids" not in batch:
            lengths = [len(row["input_ids"]) for row in rows]
            mask = [[1] * length + [0] * (longest - length) for length in lengths]
            batch["attention_mask"] = torch.tensor(mask)
        return batch

    return collate
