"""The documents whose tokens must stay: plain text, conversations, and tasks with their answers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path

from common.errors import UserError
from toolchain.compress.prune_vocab.settings import Vocabulary
from toolchain.data.chat import ChatTemplateError, render_chat
from toolchain.data.chat_format import chat_format
from toolchain.data.text import (
    COMPANION_FOLDER,
    TaskExample,
    json_rows,
    read_documents,
    task_examples,
)
from toolchain.stage import Input

_DAY = datetime(2025, 1, 1)  # some templates write the date: the same result on every day
_ROLES = (("user",), ("system", "user"), ("user", "assistant", "user"))


def kept_documents(paths: Sequence[Path], checkpoint: Path) -> tuple[str, ...]:
    """All documents of the files. Raises `UserError` when there is none."""
    if not paths:
        raise UserError(
            "no text says which tokens must stay",
            "give --text FILE, or `text` in the recipe's section vocabulary",
        )
    found = [document for path in paths for document in _documents(path, checkpoint)]
    return tuple(dict.fromkeys(found))


def template_documents(checkpoint: Path) -> list[str]:
    """What the chat template writes around every conversation: roles, turns, a default system
    message. Its tokens stay even where the text is plain."""
    form = chat_format(checkpoint)
    found = []
    for roles in _ROLES if form else ():
        messages = [{"role": role, "content": "."} for role in roles]
        for ask in (True, False):
            try:
                assert form is not None
                found.append(
                    render_chat(
                        form.template,
                        messages,
                        bos_token=form.bos_token,
                        eos_token=form.eos_token,
                        add_generation_prompt=ask,
                        now=_DAY,
                    )
                )
            except ChatTemplateError:  # a template without system messages, for example
                continue
    return found


def settled(
    settings: Vocabulary, calibration: Input, checkpoint: Path, data: Path | None = None
) -> tuple[Input, ...]:
    """The files that the settings name, else the calibration text, and the training data and task:
    of the folder of prepared `data` where there is one, else those that come with the model."""
    if settings.text:
        missing = [path for path in settings.text if not path.is_file()]
        if missing:
            raise UserError(f"text file {missing[0]} is missing", "check --text")
        return tuple(Input.of_file(path) for path in settings.text)
    folder = data or checkpoint / COMPANION_FOLDER
    own = [folder / f"{name}.jsonl" for name in ("train", "task")]
    return (calibration, *(Input.of_file(path) for path in own if path.is_file()))


def _documents(path: Path, checkpoint: Path) -> list[str]:
    keys = _first_keys(path) if path.suffix == ".jsonl" else set()
    if {"messages", "answer"} <= keys:
        examples = task_examples(checkpoint, path) or []
        return [text for example in examples for text in _of_task(example, checkpoint)]
    if keys & {"text_pair", "tokens"}:
        return list(_labelled(path))
    return read_documents(path, checkpoint)


def _first_keys(path: Path) -> set[str]:
    """Keys of the first row; none when it is no row, which the reader of the file then says."""
    try:
        with path.open(encoding="utf-8-sig") as lines:
            row = json.loads(next((line for line in lines if line.strip()), "{}"))
    except (OSError, ValueError, RecursionError):
        return set()
    return set(row) if isinstance(row, dict) else set()


def _labelled(path: Path) -> Iterator[str]:
    """Both texts of pairs, and the words of rows for taggers."""
    for _, row in json_rows(path):
        words = row.get("tokens")
        if isinstance(words, list):
            yield " ".join(map(str, words))
        yield from (row[key] for key in ("text", "text_pair") if isinstance(row.get(key), str))


def _of_task(example: TaskExample, checkpoint: Path) -> list[str]:
    """The prompt as it is asked, and the answer after it."""
    form = chat_format(checkpoint)
    if form is None:
        return [*(message["content"] for message in example.messages), example.answer]
    prompt = render_chat(
        form.template,
        list(example.messages),
        bos_token=form.bos_token,
        eos_token=form.eos_token,
        add_generation_prompt=True,
    )
    return [prompt + example.answer]
