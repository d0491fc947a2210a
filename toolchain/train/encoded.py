"""The splits as Arrow files of token ids, which training reads memory-mapped.

Memory does not grow with the data: rows are encoded, packed and written in parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import file_in_the_making, read_json, write_json
from common.progress import progress_bar
from toolchain.data.prepare.encode import Encoded, TooLong, pack
from toolchain.data.prepare.split import UNLABELLED_FILE
from toolchain.train.examples import (
    Classified,
    Row,
    causal_encoder,
    class_encoder,
    kind_of,
    labels_of,
    read_rows,
    split_rows,
)
from toolchain.train.job import TRAIN_FILE, VALIDATION_FILE, Kind
from toolchain.train.settings import Finetune

_FACTS = "encoded.json"
_PART = 2000
_MOST_FAULTS = 20


@dataclass(frozen=True)
class SplitFacts:
    """One split: `examples` as given, `rows` as trained on (fewer when packed), `learned` of all
    `tokens` have a loss, `longest` row in tokens."""

    examples: int = 0
    rows: int = 0
    tokens: int = 0
    learned: int = 0
    longest: int = 0
    truncated: int = 0


@dataclass(frozen=True)
class DataFacts:
    """What the encoded data are. `labels` are the classes, none for a language model; `left_out`
    texts without a label are not trained on."""

    kind: Kind
    labels: tuple[str, ...]
    max_tokens: int
    train: SplitFacts
    validation: SplitFacts
    left_out: int = 0


def data_kind(data: Path) -> Kind:
    """What the prepared folder trains. Raises `UserError` when it has no rows to train on."""
    path = data / "train.jsonl"
    if not path.is_file():
        raise UserError(
            f"{data} has no train.jsonl", "prepare the data: edgeforge data prepare FILE --out DIR"
        )
    first = next(read_rows(path), None)
    if first is None:
        raise UserError(f"{path} is empty", "give rows to train on")
    return kind_of(first[1], first[0])


def encode_data(
    data: Path,
    folder: Path,
    tokenizer: Any,
    settings: Finetune,
    max_tokens: int,
    *,
    unlabelled: bool = False,
) -> DataFacts:
    """Write both splits into `folder`, or take what is there; train has a classifier's `unlabelled`
    texts too. Raises `UserError` listing faulty rows; then no split is left half-written."""
    if (folder / _FACTS).is_file():
        return _facts(read_json(folder / _FACTS))
    kind = data_kind(data)
    labels = labels_of(data / "train.jsonl") if kind == "classification" else ()
    _require_usable(kind, data, tokenizer, settings)
    encoder: Callable[[str, Any], Any] = (
        class_encoder(tokenizer, max_tokens, labels)
        if labels
        else causal_encoder(tokenizer, max_tokens, answers_only=settings.loss_on == "answers")
    )
    facts = {}
    for name, file in (("train", TRAIN_FILE), ("validation", VALIDATION_FILE)):
        given = split_rows(data, name, unlabelled=unlabelled)
        examples = _encoded(name, given, encoder, max_tokens)
        room = max_tokens if settings.packing else None
        try:
            facts[name] = _write(examples, folder / file, kind, room)
        except OSError as error:
            raise UserError(
                f"the encoded data cannot be written to {folder}: {error.strerror or error}",
                "free some space, or choose another folder with --out",
            ) from None
    if not facts["train"].learned:
        raise UserError("no token of the training rows would be learned", "check the rows")
    left_out = 0 if unlabelled else _lines(data / UNLABELLED_FILE)
    found = DataFacts(kind, labels, max_tokens, facts["train"], facts["validation"], left_out)
    write_json(folder / _FACTS, asdict(found))
    return found


def _lines(path: Path) -> int:
    """How many lines a file has, none where there is no file."""
    if not path.is_file():
        return 0
    with path.open("rb") as stream:
        return sum(1 for _ in stream)


def _facts(stored: dict[str, Any]) -> DataFacts:
    return DataFacts(
        stored["kind"],
        tuple(stored["labels"]),
        stored["max_tokens"],
        SplitFacts(**stored["train"]),
        SplitFacts(**stored["validation"]),
        stored.get("left_out", 0),
    )


def _require_usable(kind: Kind, data: Path, tokenizer: Any, settings: Finetune) -> None:
    if kind == "classification":
        if settings.packing:
            raise UserError("a classifier's rows cannot be packed", "leave packing off")
        return
    first = next(read_rows(data / "train.jsonl"))[1]
    if "messages" in first and not tokenizer.chat_template:
        raise UserError(
            "the rows are conversations, but the model's tokenizer has no chat template",
            "give the model's chat version, or rows with text",
        )


def _encoded(
    name: str,
    given: Iterator[tuple[str, Row]],
    encoder: Callable[[str, Any], Any],
    max_tokens: int,
) -> Iterator[Encoded | Classified]:
    faults: list[str] = []
    too_long = False
    with progress_bar(f"encoding {name}", unit="row") as bar:
        for where, row in given:
            bar.update(1)
            try:
                yield encoder(where, row)
            except UserError as fault:
                too_long = too_long or isinstance(fault, TooLong)
                faults.append(f"{where}: {fault.problem.removeprefix(f'{where} ')}")
            except (KeyError, TypeError, ValueError) as fault:
                faults.append(f"{where}: {fault}")
            if len(faults) >= _MOST_FAULTS:
                break
    if faults:
        mend = "mend the rows; nothing was trained"
        if too_long:
            mend = (
                f"raise max_tokens ({max_tokens}) where the model allows it, or leave such rows "
                "out: edgeforge data prepare --model M --max-tokens N --drop-long"
            )
        raise UserError(f"rows of {name}.jsonl cannot be trained on", mend, details=faults)


def _write(
    examples: Iterable[Encoded | Classified], path: Path, kind: Kind, room: int | None
) -> SplitFacts:
    """`room`: tokens of a packed row, None to leave rows as they are."""
    import pyarrow as pa

    ids = pa.list_(pa.int32())
    fields = {"input_ids": ids, "labels": ids, "lengths": ids}
    if kind == "classification":
        fields = {"input_ids": ids, "token_type_ids": ids, "labels": pa.int32()}
    schema = pa.schema(list(fields.items()))
    total = SplitFacts()
    with file_in_the_making(path) as sink, pa.ipc.new_stream(sink, schema) as stream:
        for part in _parts(examples):
            rows = list(_rows(part, room))
            total = _add(total, part, rows)
            stream.write_batch(pa.RecordBatch.from_pylist(rows, schema))
    return total


def _parts(examples: Iterable[Any]) -> Iterator[list[Any]]:
    part: list[Any] = []
    for example in examples:
        part.append(example)
        if len(part) == _PART:
            yield part
            part = []
    if part:
        yield part


def _rows(part: list[Any], room: int | None) -> Iterator[dict[str, Any]]:
    if room is not None:
        for row in pack(part, room):
            lengths = [end - start for start, end in itertools.pairwise(row.cu_seqlens)]
            yield {"input_ids": row.input_ids, "labels": row.labels, "lengths": lengths}
        return
    for example in part:
        if isinstance(example, Classified):
            yield {
                "input_ids": example.input_ids,
                "token_type_ids": example.token_type_ids,
                "labels": example.label,
            }
        elif example.input_ids:
            # The first token is predicted from nothing; counting it would bend the mean.
            labels = [-100, *example.labels[1:]]
            lengths = [len(example.input_ids)]
            yield {"input_ids": example.input_ids, "labels": labels, "lengths": lengths}


def _add(total: SplitFacts, part: list[Any], rows: list[dict[str, Any]]) -> SplitFacts:
    lengths = [len(row["input_ids"]) for row in rows]
    learned = [
        sum(label >= 0 for label in row["labels"]) if isinstance(row["labels"], list) else 1
        for row in rows
    ]
    return SplitFacts(
        total.examples + len(part),
        total.rows + len(rows),
        total.tokens + sum(lengths),
        total.learned + sum(learned),
        max([total.longest, *lengths]),
        total.truncated + sum(example.truncated for example in part),
    )
