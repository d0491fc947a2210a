"""The rule that a checkpoint's chat template can be rendered at all."""

from __future__ import annotations

from collections.abc import Iterator

from toolchain.checkpoint.info import CheckpointInfo, Fault

_CONVERSATION = ({"role": "user", "content": "Hello."},)


def chat_template_works(info: CheckpointInfo) -> Iterator[Fault]:
    """It is Jinja, and a short conversation takes little time and memory. One that refuses the
    conversation may still take others."""
    if not info.chat_template:
        return
    from toolchain.data.chat import render_chat
    from toolchain.data.templates import BrokenTemplate, ChatTemplateError

    try:
        render_chat(info.chat_template, _CONVERSATION, bos_token="", eos_token="")
    except BrokenTemplate as error:
        yield Fault(error.problem, error.mend)
    except ChatTemplateError:
        return
