"""The prompts that a bundle is tried with: of the model's own task, or a few built-in ones.

A row of `prompts.jsonl` has the rendered prompt and its token ids, so that a device needs neither
template nor tokenizer library; the smoke test's `--record` adds the expected answer.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from toolchain.data.chat import ChatTemplateError, render_chat
from toolchain.data.chat_format import chat_format
from toolchain.data.text import TaskExample
from toolchain.evaluate.task import choose_examples
from toolchain.hf import end_token_ids, load_tokenizer, token_ids

if TYPE_CHECKING:
    from toolchain.export.bundle import Config as BundleConfig

TASK_PROMPTS = 20
_SPARE_TOKENS = 8
_ANSWER_TOKENS = 48
# Some templates print today's date, and a bundle's bytes must not depend on the day.
_CLOCK = datetime(2025, 1, 1)

QUESTIONS = (
    "What is the capital of France? Answer in one sentence.",
    "List three things that a small computer in a kitchen could do.",
    "Write one line of Python that prints the numbers from 1 to 5.",
    "请用一句话介绍一下你自己。",
    "一年有几个季节？请列出它们的名字。",
    "把“早上好”翻译成英文。",
)
BEGINNINGS = (
    "Once upon a time, there was a",
    "The little dog ran into the garden and",
    "The most important thing about water is",
    "In the morning she opened the window and saw",
    "def add(a, b):\n    return",
    "很久以前，有一个",
)


@dataclass(frozen=True)
class Prompt:
    """What is asked: a conversation, or the beginning of a text. `reference`: the true answer."""

    id: str
    messages: tuple[dict[str, str], ...] | None = None
    text: str | None = None
    reference: str | None = None


def prompts_of_bundle(config: BundleConfig) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of `prompts.jsonl` and stop texts for a bundle of a decoder."""
    from toolchain.data.text import task_examples

    checkpoint = config.checkpoint.path
    return prompt_rows(
        checkpoint,
        task_examples(checkpoint, config.task.path) if config.task else None,
        int(config.plan["context_tokens"]),
        trust_remote_code=config.trust_remote_code,
    )


def task_prompts(examples: Sequence[TaskExample], count: int = TASK_PROMPTS) -> list[Prompt]:
    """At most `count` examples of the model's task, always the same ones."""
    return [
        Prompt(f"task-{number:02d}", messages=example.messages, reference=example.answer)
        for number, example in enumerate(choose_examples(examples, count, seed=0), start=1)
    ]


def builtin_prompts(*, chat: bool) -> list[Prompt]:
    """Six questions for a chat model, six beginnings for a base model, in English and Chinese."""
    if chat:
        return [
            Prompt(f"chat-{number}", messages=({"role": "user", "content": question},))
            for number, question in enumerate(QUESTIONS, start=1)
        ]
    return [Prompt(f"text-{n}", text=text) for n, text in enumerate(BEGINNINGS, start=1)]


def prompt_rows(
    checkpoint: Path,
    examples: Sequence[TaskExample] | None,
    context_tokens: int,
    *,
    trust_remote_code: bool = False,
) -> tuple[list[dict[str, Any]], list[str]]:
    """Rows of `prompts.jsonl`, still without answers, and the texts at which an answer ends.

    Prompts that do not fit into the context with their answer are left out; raises `UserError` when
    none fits.
    """
    tokenizer = load_tokenizer(checkpoint, trust_remote_code=trust_remote_code)
    chat = chat_format(checkpoint) is not None
    prompts = task_prompts(examples) if examples else builtin_prompts(chat=chat)
    rows = []
    for prompt in prompts:
        row = _row(prompt, checkpoint, tokenizer)
        row["max_new_tokens"] = min(row["max_new_tokens"], max(8, context_tokens // 4))
        if len(row["token_ids"]) + row["max_new_tokens"] < context_tokens:
            rows.append(row)
    if not rows:
        raise UserError(f"no prompt of the smoke test fits a context of {context_tokens} tokens")
    ends = tokenizer.convert_ids_to_tokens(end_token_ids(checkpoint, tokenizer))
    return rows, sorted({str(text) for text in ends if text})


def write_rows(path: Path, rows: Sequence[dict[str, Any]]) -> None:
    """Write rows as JSON lines."""
    lines = [json.dumps(row, ensure_ascii=False, sort_keys=True) + "\n" for row in rows]
    path.write_text("".join(lines), encoding="utf-8")


def _row(prompt: Prompt, checkpoint: Path, tokenizer: Any) -> dict[str, Any]:
    text, add_special = _rendered(prompt, checkpoint)
    answer_tokens = _ANSWER_TOKENS
    if prompt.reference is not None:
        ids = token_ids(tokenizer, prompt.reference, add_special=False)
        answer_tokens = len(ids) + _SPARE_TOKENS
    return {
        "id": prompt.id,
        "messages": list(prompt.messages) if prompt.messages else None,
        "prompt": text,
        "add_special": add_special,
        "token_ids": token_ids(tokenizer, text, add_special=add_special),
        "max_new_tokens": answer_tokens,
        "reference": prompt.reference,
    }


def _rendered(prompt: Prompt, checkpoint: Path) -> tuple[str, bool]:
    """The prompt's text, and whether the tokenizer adds its own special tokens (a template writes
    them itself)."""
    if prompt.messages is None:
        return prompt.text or "", True
    form = chat_format(checkpoint)
    if form is None:
        # A task given for a base model: the last turn as plain text.
        return prompt.messages[-1]["content"], True
    try:
        text = render_chat(
            form.template,
            prompt.messages,
            bos_token=form.bos_token,
            eos_token=form.eos_token,
            now=_CLOCK,
        )
    except ChatTemplateError as error:
        raise UserError(f"prompt {prompt.id}: {error.problem}") from None
    return text, False
