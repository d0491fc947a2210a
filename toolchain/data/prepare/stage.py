"""Stage `prepare`: a recipe's data files become splits, and the texts that measure the result.

train.jsonl  validation.jsonl  test.jsonl  unlabelled.jsonl  report.json  report.md
calibration.jsonl   rows of train, for the importance matrix and the like
evaluation.jsonl    rows held out (of test, else of validation), for perplexity and KLD
task.jsonl          the same rows as prompts with their right answers, where there are any
"""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

from pydantic import Field

from common.errors import UserError
from common.files import read_json, sha256_file, sha256_json, write_text
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.data.prepare.prepare import KIND, REPORT, Settings, prepare
from toolchain.data.prepare.split import SPLITS, UNLABELLED_FILE
from toolchain.data.prepare.tally import COUNTS
from toolchain.stage import Input, StageConfig

NAME = "prepare"
VERSION = 2
TOOLS = ("datasets", "transformers")
FORMAT = "data"
CALIBRATION, EVALUATION, TASK = "calibration.jsonl", "evaluation.jsonl", "task.jsonl"
_MOST_ROWS = 2000
_MEASURED = (*COUNTS, "labels", "splits")


class Config(StageConfig):
    """`files` are data files, or one prepared folder (`data_input`); the rest as `Settings`."""

    files: tuple[Input, ...]
    format: str | None = None
    map: dict[str, str] = Field(default_factory=dict)
    split: tuple[float, float, float] = (0.8, 0.1, 0.1)
    seed: int = 0
    max_tokens: int | None = None
    drop_long: bool = False
    variants: int = 0
    trust_remote_code: bool = False


def data_input(path: Path) -> Input:
    """A data file or a prepared folder, named by its content. Raises `UserError` when it is
    neither."""
    if path.is_file():
        return Input.of_file(path)
    if not (path / REPORT).is_file() or read_json(path / REPORT).get("kind") != KIND:
        raise UserError(
            f"{path} is no folder that `edgeforge data prepare` made", "give data files instead"
        )
    digests = {name: sha256_file(path / name) for name in _row_files(path)}
    return Input(digest=sha256_json({**digests, REPORT: sha256_file(path / REPORT)}), path=path)


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Prepare the data for `source`'s tokenizer. Raises `UserError` for every fault of the data."""
    folders = [item.path for item in config.files if item.path.is_dir()]
    if folders and len(config.files) > 1:
        raise UserError(
            f"{folders[0]} is a prepared folder and not the only data", "give it alone, or files"
        )
    if folders:
        for name in [REPORT, *_row_files(folders[0])]:
            shutil.copyfile(folders[0] / name, out_dir / name)
    else:
        prepare(_settings(source, config, out_dir))
    _write_texts(out_dir)
    report = read_json(out_dir / REPORT)
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[item.digest for item in config.files],
        versions={tool: version(tool) for tool in TOOLS},
        measurements={name: report[name] for name in _MEASURED if name in report},
    )


def _settings(source: Artifact, config: Config, out_dir: Path) -> Settings:
    return Settings(
        inputs=tuple(item.path for item in config.files),
        out=out_dir,
        form=config.format,
        mapping=config.map,
        ratios=config.split,
        seed=config.seed,
        model=source.path,
        max_tokens=config.max_tokens,
        drop_long=config.drop_long,
        variants=config.variants,
        trust_remote_code=config.trust_remote_code,
    )


def _row_files(folder: Path) -> list[str]:
    names = (*(f"{split}.jsonl" for split in SPLITS), UNLABELLED_FILE)
    return [name for name in names if (folder / name).is_file()]


def _write_texts(folder: Path) -> None:
    """Calibration from train; evaluation and task from rows that training does not see."""
    held_out = "test" if _has_rows(folder, "test") else "validation"
    _write_rows(folder / CALIBRATION, _rows(folder, "train"))
    if not _has_rows(folder, held_out):
        return
    _write_rows(folder / EVALUATION, _rows(folder, held_out))
    tasks = (_as_task(row) for row in _rows(folder, held_out))
    _write_rows(folder / TASK, (task for task in tasks if task))


def _as_task(row: dict[str, object]) -> dict[str, object] | None:
    """Prompt and answer of a conversation; a row with a label as it is; None for plain text."""
    if "label" in row:
        return row
    messages = row.get("messages")
    if not isinstance(messages, list):
        return None
    return {"messages": messages[:-1], "answer": messages[-1]["content"]}


def _write_rows(path: Path, rows: Iterator[dict[str, object]]) -> None:
    lines = [
        json.dumps(row, ensure_ascii=False) + "\n" for row in itertools.islice(rows, _MOST_ROWS)
    ]
    if lines:
        write_text(path, "".join(lines))


def _has_rows(folder: Path, split: str) -> bool:
    path = folder / f"{split}.jsonl"
    return path.is_file() and path.stat().st_size > 0


def _rows(folder: Path, split: str) -> Iterator[dict[str, object]]:
    with (folder / f"{split}.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            yield json.loads(line)
