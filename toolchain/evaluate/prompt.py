"""Gate on the chat prompt: the template inside the file renders what Hugging Face renders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from runtimes.llama import LlamaModel
from toolchain.data.chat import ChatTemplateError, render_chat, render_with_tokenizer
from toolchain.evaluate.awkward import CONVERSATIONS
from toolchain.evaluate.gate import Gate
from toolchain.hf import token_ids

NAME = "chat prompt"
_MEND = "convert again from this checkpoint: the template inside the file is not the checkpoint's"
_REFUSED = "(the template refuses these messages)"


def prompt_gate(tokenizer: Any, model: LlamaModel) -> Gate:
    """Compare rendered prompts and their token ids on several conversations.

    A template that refuses a conversation (no system role, roles out of order) must refuse it on
    both sides. Does not apply when neither side has a template. The figure counts prompts that
    differ.
    """
    ours, theirs = model.chat_template, tokenizer.chat_template
    if not ours and not theirs:
        return Gate(NAME, None, 0, True, "not applicable: the model has no chat template")
    if not ours or not theirs:
        side = "file" if theirs else "checkpoint"
        return Gate(NAME, 1, 0, False, f"the {side} has no chat template, the other has", _MEND)
    differences, rendered = [], 0
    for messages in CONVERSATIONS:
        for add_generation_prompt in (True, False):
            expected = _hugging_face(tokenizer, messages, add_generation_prompt)
            actual = _of_file(tokenizer, ours, messages, add_generation_prompt)
            rendered += expected != _REFUSED
            if fault := _difference(tokenizer, model, expected, actual):
                differences.append(fault)
    if not rendered:
        differences.append("the template refuses every conversation")
    detail = differences[0] if differences else f"{rendered} prompts equal, as text and as tokens"
    return Gate(NAME, len(differences), 0, not differences, detail, _MEND)


def answer_end(tokenizer: Any) -> str:
    """What the checkpoint's template writes after an answer; empty without a template."""
    if not tokenizer.chat_template:
        return ""
    marker = "An answer."
    user = {"role": "user", "content": "A question."}
    text = _hugging_face(tokenizer, [user, {"role": "assistant", "content": marker}], False)
    return text.partition(marker)[2]


def _hugging_face(tokenizer: Any, messages: Sequence[dict[str, str]], add: bool) -> str:
    try:
        return render_with_tokenizer(tokenizer, messages, prompt=add)
    except ChatTemplateError:
        return _REFUSED


def _of_file(tokenizer: Any, template: str, messages: Sequence[dict[str, str]], add: bool) -> str:
    try:
        return render_chat(
            template,
            messages,
            bos_token=tokenizer.bos_token,
            eos_token=tokenizer.eos_token,
            add_generation_prompt=add,
        )
    except ChatTemplateError:
        return _REFUSED


def _difference(tokenizer: Any, model: LlamaModel, expected: str, actual: str) -> str:
    if expected != actual:
        at = next(
            (i for i, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b),
            min(len(expected), len(actual)),
        )
        return (
            f"at character {at} after {expected[max(0, at - 20) : at]!r}: "
            f"checkpoint {expected[at : at + 40]!r}, file {actual[at : at + 40]!r}"
        )
    ids = token_ids(tokenizer, expected, add_special=False)
    theirs = model.tokenize(actual, add_special=False, parse_special=True)
    if ids != theirs:
        return (
            f"tokens of the prompt {expected[:60]!r}: checkpoint {ids[:12]}…, file {theirs[:12]}…"
        )
    return ""
