"""Render chat templates exactly as Hugging Face does, without importing transformers.

    render_chat(template, [{"role": "user", "content": "hi"}], bos_token="<s>", eos_token="</s>")

Templates come with the checkpoint and are not trusted: a sandbox, in a process of its own with
little memory and time (`toolchain.data.templates`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from toolchain.data import templates
from toolchain.data.templates import ChatTemplateError as ChatTemplateError

Message = Mapping[str, Any]


def render_chat(
    template: str,
    messages: Sequence[Message],
    *,
    bos_token: str | None,
    eos_token: str | None,
    add_generation_prompt: bool = True,
    now: datetime | None = None,
    **variables: Any,
) -> str:
    """The prompt text that `template` (Jinja) makes of `messages`.

    A token that the tokenizer does not have (None) stays undefined, as in
    `PreTrainedTokenizer.apply_chat_template`. `now` replaces the clock of `strftime_now`;
    `variables` reach the template (`tools`, `enable_thinking`, further special tokens).
    Raises `ChatTemplateError` with the template's own reason.
    """
    tokens = {"bos_token": bos_token, "eos_token": eos_token}
    known = {name: token for name, token in tokens.items() if token is not None}
    prompt = {"add_generation_prompt": add_generation_prompt}
    request = {
        "template": template,
        "messages": [dict(message) for message in messages],
        "values": {"tools": None, "documents": None, **prompt, **known, **variables},
        "now": now.isoformat() if now else None,
    }
    return templates.render("own", request)


def render_with_tokenizer(tokenizer: Any, messages: Sequence[Message], *, prompt: bool) -> str:
    """What `tokenizer.apply_chat_template(..., tokenize=False)` gives, by transformers' own
    renderer. Raises `ChatTemplateError`."""
    try:
        template = tokenizer.get_chat_template()
    except ValueError as error:  # none, or several and no default
        raise ChatTemplateError(f"the tokenizer has no chat template: {error}") from None
    request = {
        "template": template,
        "messages": [dict(message) for message in messages],
        "values": {**tokenizer.special_tokens_map, "add_generation_prompt": prompt},
    }
    return templates.render("transformers", request)
