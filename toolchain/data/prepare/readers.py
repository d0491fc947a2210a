"""Rows of a data file, read and cached by Hugging Face `datasets`.

The file becomes an Arrow table on disk that is read through memory mapping, so it may be larger
than memory; a second run over an unchanged file reads the table. While streaming (`--dry-run`)
nothing is written.

JSON lines are read as lines and parsed here: Arrow's own reader turns texts that look like dates
into dates, and refuses a column that first appears late in a file.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from common.errors import UserError
from toolchain.data.prepare.array_stream import array_rows

SUFFIXES = (".json", ".jsonl", ".csv", ".tsv", ".parquet")
_BLOCK_BYTES = 1 << 20
Row = dict[str, Any]


def require_readable(path: Path) -> None:
    """Raise a `UserError` for a file that is missing, empty or of no known kind."""
    if path.suffix.lower() not in SUFFIXES:
        raise UserError(
            f"{path} has the unknown suffix '{path.suffix}'",
            f"known: {', '.join(SUFFIXES)}; plain text becomes a .jsonl with a row "
            '{"text": ...} for each document',
        )
    if not path.is_file():
        raise UserError(
            f"data file {path} is missing" if not path.exists() else f"{path} is no file",
            "check the path",
        )
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty", "give a file with rows in it")


def read_rows(path: Path, *, cache: Path | None, streaming: bool) -> Iterator[tuple[str, Row]]:
    """(where, row) of every row; `where` names the file with the row's line or number, from 1.

    `cache`: folder of the Arrow tables (default: that of `datasets`). Raises `UserError` with the
    line of broken JSON, with pandas' reason for a broken CSV, or for a file that is not UTF-8.
    """
    require_readable(path)
    kind = path.suffix.lower()
    try:
        if kind == ".json" and _starts_array(path):
            yield from _array(path, cache, streaming)
        elif kind in (".json", ".jsonl"):
            yield from _lines(path, cache, streaming)
        elif kind == ".parquet":
            yield from _table(path, "parquet", cache, streaming, {})
        else:
            yield from _table(path, "csv", cache, streaming, _csv_options(path))
    except UserError:
        raise
    except Exception as error:
        raise _mendable(path, error) from None


def _lines(path: Path, cache: Path | None, streaming: bool) -> Iterator[tuple[str, Row]]:
    lines = _load("text", path, cache, streaming, {"chunksize": _BLOCK_BYTES})
    for number, line in enumerate(lines, start=1):
        text = line["text"].removeprefix("\ufeff")
        if not text.strip():
            continue
        where = f"{path} line {number}"
        try:
            row = json.loads(text)
        except json.JSONDecodeError as error:
            raise UserError(
                f"{where} is broken JSON: {error.msg} at character {error.pos + 1}",
                "mend that line (one whole row on each line); nothing was written",
            ) from None
        yield where, _object(where, row)


def _array(path: Path, cache: Path | None, streaming: bool) -> Iterator[tuple[str, Row]]:
    import datasets

    stat = path.stat()
    # The stamp makes a changed file another entry of the cache.
    source = {"name": str(path.absolute()), "stamp": [stat.st_size, stat.st_mtime_ns]}
    form = datasets.Features({"line": datasets.Value("int64"), "text": datasets.Value("string")})
    rows: Any
    with _quiet():
        if streaming:
            rows = datasets.IterableDataset.from_generator(
                _array_source, features=form, gen_kwargs=source
            )
        else:
            rows = datasets.Dataset.from_generator(
                _array_source,
                features=form,
                gen_kwargs=source,
                cache_dir=str(cache) if cache else None,
            )
        for entry in rows:
            where = f"{path} line {entry['line']}"
            yield where, _object(where, json.loads(entry["text"]))


def _array_source(name: str, stamp: list[int]) -> Iterator[Row]:
    """What `datasets` caches of an array; it tells sources apart by these arguments."""
    for line, value in array_rows(Path(name)):
        yield {"line": line, "text": json.dumps(value)}


def _table(
    path: Path, kind: str, cache: Path | None, streaming: bool, options: dict[str, Any]
) -> Iterator[tuple[str, Row]]:
    for number, row in enumerate(_load(kind, path, cache, streaming, options), start=1):
        yield f"{path} row {number}", dict(row)


def _load(
    kind: str, path: Path, cache: Path | None, streaming: bool, options: dict[str, Any]
) -> Iterator[Any]:
    import datasets

    with _quiet():
        yield from datasets.load_dataset(
            kind,
            data_files=[_literal(path)],
            split="train",
            streaming=streaming,
            cache_dir=str(cache) if cache else None,
            **options,
        )


def _literal(path: Path) -> str:
    """The absolute path with the signs that `datasets` would take for a pattern in brackets."""
    import glob

    return glob.escape(str(path.absolute()))


def _csv_options(path: Path) -> dict[str, Any]:
    """Every column is text: neither `007` nor `NA` is anything else."""
    import csv

    import datasets

    separator = "\t" if path.suffix.lower() == ".tsv" else ","
    with path.open(encoding="utf-8-sig", newline="") as stream:
        header = next(csv.reader(stream, delimiter=separator), [])
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice or not header:
        raise UserError(
            f"{path} has " + (f"the column '{twice[0]}' twice" if twice else "no header"),
            "give one line of distinct column names first",
        )
    return {
        "sep": separator,
        "features": datasets.Features({name: datasets.Value("string") for name in header}),
        "keep_default_na": False,
        "encoding": "utf-8-sig",
        "index_col": False,
    }


def _starts_array(path: Path) -> bool:
    with path.open(encoding="utf-8-sig") as stream:
        while character := stream.read(1):
            if not character.isspace():
                return character == "["
    return False


def _object(where: str, row: Any) -> Row:
    if not isinstance(row, dict):
        raise UserError(
            f"{where} is no row but {type(row).__name__}", 'a row is {"column": value, ...}'
        )
    return row


@contextmanager
def _quiet() -> Iterator[None]:
    """`datasets` without bars and without its log of an error that is raised anyway."""
    import datasets

    bars, level = not datasets.are_progress_bars_disabled(), datasets.logging.get_verbosity()
    datasets.disable_progress_bars()
    datasets.logging.set_verbosity(datasets.logging.CRITICAL)
    try:
        yield
    finally:
        datasets.logging.set_verbosity(level)
        if bars:
            datasets.enable_progress_bars()


def _mendable(path: Path, error: BaseException) -> UserError:
    """What `datasets` wraps, as one sentence."""
    cause = error
    while cause.__cause__ is not None:
        cause = cause.__cause__
    if isinstance(cause, UserError):
        return cause
    if isinstance(cause, UnicodeDecodeError):
        return UserError(f"{path} is not UTF-8 text: {cause}", "save it as UTF-8")
    no_rows = type(cause).__name__ == "SchemaInferenceError" or "corresponds to no data" in str(
        cause
    )
    if no_rows:
        return UserError(f"{path} has no rows", "give a file with rows in it")
    reason = " ".join(str(cause).split())
    return UserError(f"{path} cannot be read: {reason}", "mend the file; nothing was written")
