"""Example data of this project's own task (home control) in every format and kind of file."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from common.errors import UserError, near_names
from common.files import file_in_the_making, write_text
from common.folders import make_folder
from toolchain.data.home_control import Example, generate
from toolchain.data.prepare.formats import FORMS

SUFFIXES = (".jsonl", ".json", ".csv", ".parquet")
MOST_ROWS = 100_000
_INSTRUCTION = {
    "en": "Turn the request into function calls for the devices of the house.",
    "zh": "把用户的请求转换成控制家中设备的函数调用。",
}
_SYSTEM = {"en": "You control the devices of a house.", "zh": "你负责控制家里的设备。"}


def sample(form: str, count: int, out: Path, *, seed: int = 0) -> list[dict[str, Any]]:
    """Write `count` rows of a format to `out`, in the kind its suffix says, and return them.

    Requests are in English and Chinese; the same rows for the same seed. Raises `UserError` for an
    unknown format or suffix, and for a count that is not in 1..`MOST_ROWS`.
    """
    if form not in FORMS:
        raise UserError(f"unknown format '{form}'", near_names(form, FORMS))
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{out} has the unknown suffix '{out.suffix}'", f"known: {', '.join(SUFFIXES)}"
        )
    if not 1 <= count <= MOST_ROWS:
        raise UserError(f"--count {count} is not in 1..{MOST_ROWS}")
    rows = list(_rows(form, count, seed))
    if out.is_dir():
        raise UserError(f"{out} is a folder", "give a file: --out FILE")
    make_folder(out.parent)
    _write(rows, out)
    return rows


def _rows(form: str, count: int, seed: int) -> Iterator[dict[str, Any]]:
    try:
        for number, example in enumerate(generate("train", count, seed=seed)):
            yield _row(form, number, example)
    except ValueError as error:
        raise UserError(f"--count {count}: {error}", "ask for fewer") from None


def _row(form: str, number: int, example: Example) -> dict[str, Any]:
    request = example.messages[0]["content"]
    if form == "alpaca":
        instruction = _INSTRUCTION[example.language]
        return {"instruction": instruction, "input": request, "output": example.answer}
    if form == "qa":
        return {"question": request, "answer": example.answer}
    if form == "classification":
        return {"text": request, "label": _device(example.answer)}
    if form == "text":
        return {"text": f"{request}\n{example.answer}"}
    turns = [*example.messages, {"role": "assistant", "content": example.answer}]
    if number % 2:
        turns.insert(0, {"role": "system", "content": _SYSTEM[example.language]})
    return {"messages": turns}


def _device(answer: str) -> str:
    """Which kind of device a request is about."""
    devices = {call["device"] for call in json.loads(answer)["calls"]}
    return devices.pop() if len(devices) == 1 else "several" if devices else "none"


def _write(rows: Sequence[dict[str, Any]], out: Path) -> None:
    kind = out.suffix.lower()
    if kind == ".parquet":
        _write_parquet(rows, out)
    elif kind == ".csv":
        write_text(out, _csv(rows))
    elif kind == ".json":
        write_text(out, json.dumps(rows, ensure_ascii=False, indent=1) + "\n")
    else:
        write_text(out, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def _csv(rows: Sequence[dict[str, Any]]) -> str:
    """Conversations become one column of JSON."""
    stream = io.StringIO()
    writer = csv.DictWriter(stream, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    for row in rows:
        cells = {
            name: value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            for name, value in row.items()
        }
        writer.writerow(cells)
    return stream.getvalue()


def _write_parquet(rows: Sequence[dict[str, Any]], out: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    with file_in_the_making(out) as stream:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(list(rows)), stream)
