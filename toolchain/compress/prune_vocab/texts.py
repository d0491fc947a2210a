"""The documents whose tokens must stay: plain text, conversations, and tasks with their answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from common.errors import UserError
from toolchain.compress.prune_vocab.settings import Vocabulary
from toolchain.data.chat import render_chat
from toolchain.data.chat_format import chat_format
from toolchain.data.text import (
    COMPANION_FOLDER,
    TaskExample,
    read_documents,
    task_examples,
)
from toolchain.stage import Input


def kept_documents(paths: Sequence[Path], checkpoint: Path) -> tuple[str, ...]:
    """All documents of the files. Raises `UserError` when there is none."""
    if not paths:
        raise UserError(
            "no text says which tokens must stay",
            "give --text FILE, or `text` in the recipe's section vocabulary",
        )
    found = [document for path in paths for document in _documents(path, checkpoint)]
    return tuple(dict.fromkeys(found))


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
    if path.suffix == ".jsonl" and _is_task(path):
        examples = task_examples(checkpoint, path) or []
        return [text for example in examples for text in _of_task(example, checkpoint)]
    return read_documents(path, checkpoint)


def _is_task(path: Path) -> bool:
    with path.open(encoding="utf-8-sig", errors="replace") as lines:
        first = next((line for line in lines if line.strip()), "")
    return '"answer"' in first and '"messages"' in first


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
