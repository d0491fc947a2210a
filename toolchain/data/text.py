"""Where calibration text, evaluation text and task examples come from.

In this order: the file that the user gives; the checkpoint's own companion data
(`edgeforge/calibration.jsonl`, `edgeforge/evaluation.jsonl`, `edgeforge/task.jsonl` inside its
folder); the texts that come with the project. A `.jsonl` file has one document a line, `{"text":
...}` or `{"messages": [...]}`, the latter rendered with the checkpoint's chat template; any other
file is text whose documents are parted by lines `<|document|>`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import sha256_json
from common.files import write_text as write_file
from common.resources import explained
from toolchain.data.chat import render_chat
from toolchain.data.chat_format import ChatFormat, chat_format

SEPARATOR = "<|document|>"
COMPANION_FOLDER = "edgeforge"
DEFAULT_TEXTS = Path(__file__).parents[1] / "assets" / "text"
_ONE_ROW = "write one JSON object on each line"


@dataclass(frozen=True)
class TextSource:
    """Documents to calibrate or evaluate on. `origin` is 'given', 'checkpoint' or 'default'."""

    name: str
    documents: tuple[str, ...]
    digest: str
    origin: str


@dataclass(frozen=True)
class TaskExample:
    """One prompt (a conversation that ends with the user) and the only right answer."""

    messages: tuple[dict[str, str], ...]
    answer: str


def calibration_text(checkpoint: Path, override: Path | None = None) -> TextSource:
    """Text for the importance matrix."""
    return _text("calibration", checkpoint, override)


def evaluation_text(checkpoint: Path, override: Path | None = None) -> TextSource:
    """Held-out text for perplexity and KLD."""
    return _text("evaluation", checkpoint, override)


def default_text(kind: str) -> TextSource:
    """The `evaluation` or `calibration` text that comes with the project, whatever a checkpoint has
    of its own."""
    documents = tuple(read_documents(DEFAULT_TEXTS / f"{kind}.txt"))
    return TextSource(f"default {kind} text", documents, sha256_json(list(documents)), "default")


def require_held_out(calibration: TextSource, evaluation: TextSource) -> None:
    """Raise a `UserError` when a document is in both, white space at its ends aside."""
    seen = {document.strip() for document in calibration.documents}
    shared = [d for d in evaluation.documents if d.strip() in seen]
    if shared:
        raise UserError(
            f"calibration text {calibration.name} and evaluation text {evaluation.name} share "
            f"{len(shared)} documents, the first: {shared[0].strip()[:60]!r}",
            "measure on text that nothing was tuned on: give another file for one of them",
        )


def task_examples(checkpoint: Path, override: Path | None = None) -> list[TaskExample] | None:
    """Prompts with their right answers, or `None` when neither file nor companion data has any."""
    path = override or checkpoint / COMPANION_FOLDER / "task.jsonl"
    if override is None and not path.is_file():
        return None
    examples = []
    for where, row in json_rows(path):
        messages = _messages(where, row)
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        if not messages or not isinstance(row.get("answer"), str):
            raise UserError(
                f"{where} needs 'messages' with a user's turn and 'answer', a string; "
                f"found: {_keys(row)}"
            )
        examples.append(TaskExample(tuple(messages), row["answer"]))
    if not examples:
        raise UserError(f"{path} has no examples", "give rows with messages and answer")
    return examples


def read_documents(path: Path, checkpoint: Path | None = None) -> list[str]:
    """The documents of a file, empty ones left out. Rows with messages need `checkpoint`."""
    if path.suffix == ".jsonl":
        documents = list(_jsonl_documents(path, checkpoint))
    else:
        documents = _split(_read(path))
    documents = [document for document in documents if document.strip()]
    if not documents:
        raise UserError(f"{path} has no text", "give a file with text in it")
    return documents


def write_text(source: TextSource, path: Path) -> None:
    """Write the documents as text parted by `<|document|>` lines; `read_documents` reads it
    back."""
    clash = next((d for d in source.documents if SEPARATOR in d.split("\n")), None)
    if clash is not None:
        raise UserError(f"a document of {source.name} has a line '{SEPARATOR}' of its own")
    write_file(path, f"\n{SEPARATOR}\n".join(source.documents) + "\n")


def as_rows(source: TextSource, path: Path) -> None:
    """Write the documents as rows of text, as training takes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (json.dumps({"text": document}, ensure_ascii=False) for document in source.documents)
    write_file(path, "".join(row + "\n" for row in rows))


def _text(kind: str, checkpoint: Path, override: Path | None) -> TextSource:
    companion = checkpoint / COMPANION_FOLDER / f"{kind}.jsonl"
    if override is not None:
        path, name, origin = override, override.name, "given"
    elif companion.is_file():
        path, name, origin = companion, f"{COMPANION_FOLDER}/{companion.name}", "checkpoint"
    else:
        path, name, origin = DEFAULT_TEXTS / f"{kind}.txt", f"default {kind} text", "default"
    documents = tuple(read_documents(path, checkpoint))
    return TextSource(name, documents, sha256_json(list(documents)), origin)


def _split(text: str) -> list[str]:
    documents: list[list[str]] = [[]]
    for line in text.removesuffix("\n").split("\n"):
        if line.rstrip("\r") == SEPARATOR:
            documents.append([])
        else:
            documents[-1].append(line)
    return ["\n".join(lines) for lines in documents]


def _jsonl_documents(path: Path, checkpoint: Path | None) -> Iterator[str]:
    form: ChatFormat | None = None
    for where, row in json_rows(path):
        if isinstance(row.get("text"), str):
            yield row["text"]
            continue
        messages = _messages(where, row)
        if form is None:
            form = chat_format(checkpoint) if checkpoint else None
        if form is None:
            raise UserError(
                f"{where} is a conversation, but the checkpoint has no chat template",
                'give rows {"text": ...}, or a checkpoint with a chat template',
            )
        yield render_chat(
            form.template,
            messages,
            bos_token=form.bos_token,
            eos_token=form.eos_token,
            add_generation_prompt=False,
        )


def json_rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """(where, row) of every line that is not empty. Raises `UserError` for a line that is no JSON
    object."""
    for number, line in enumerate(_read(path).split("\n"), start=1):
        if not line.strip():
            continue
        where = f"{path} line {number}"
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{where} is no JSON: {error}", _ONE_ROW) from None
        if not isinstance(row, dict):
            raise UserError(f"{where} is no JSON object", _ONE_ROW)
        yield where, row


def _messages(where: str, row: dict[str, Any]) -> list[dict[str, str]]:
    messages = row.get("messages")
    good = isinstance(messages, list) and all(
        isinstance(m, dict) and isinstance(m.get("role"), str) and isinstance(m.get("content"), str)
        for m in messages
    )
    if not good or not messages:
        raise UserError(
            f"{where} has neither 'text' nor 'messages' with role and content; found: {_keys(row)}"
        )
    return [{"role": m["role"], "content": m["content"]} for m in messages]


def _read(path: Path) -> str:
    try:
        # newline="" keeps \r\n as it is: the text is measured as the user wrote it
        with path.open(encoding="utf-8-sig", newline="") as stream:
            return stream.read()
    except FileNotFoundError:
        raise UserError(f"text file {path} is missing", "check the path") from None
    except (OSError, UnicodeDecodeError) as error:
        raise explained(error) or UserError(
            f"{path} cannot be read as UTF-8 text: {error}", "save it as UTF-8"
        ) from None


def _keys(row: dict[str, Any]) -> str:
    return ", ".join(sorted(row)) or "nothing"
