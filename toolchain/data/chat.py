"""Render chat templates exactly as Hugging Face does, without importing transformers.

The environment is that of `transformers.utils.chat_template_utils` (5.x): an immutable sandbox,
trimmed blocks, loop controls, `raise_exception`, `strftime_now`, JSON without HTML escapes and the
`{% generation %}` tag. Templates come with the checkpoint and are not trusted, hence the sandbox.

    render_chat(template, [{"role": "user", "content": "hi"}], bos_token="<s>", eos_token="</s>")
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from common.errors import UserError

Message = Mapping[str, Any]


class ChatTemplateError(UserError):
    """The template refuses these messages, or is itself faulty."""


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
    import jinja2

    tokens = {"bos_token": bos_token, "eos_token": eos_token}
    known = {name: token for name, token in tokens.items() if token is not None}
    clock = {} if now is None else {"strftime_now": now.strftime}
    values = {"tools": None, "documents": None, **known, **clock, **variables}
    plain = json.loads(json.dumps([dict(message) for message in messages]))
    try:
        text: str = _compiled(template).render(
            messages=plain, add_generation_prompt=add_generation_prompt, **values
        )
    except (jinja2.TemplateError, TypeError, ValueError, AttributeError, LookupError) as error:
        raise ChatTemplateError(
            f"the chat template cannot render these messages: {error}"
        ) from None
    return text


@functools.lru_cache(maxsize=32)
def _compiled(template: str) -> Any:
    import jinja2
    from jinja2.ext import Extension, loopcontrols
    from jinja2.sandbox import ImmutableSandboxedEnvironment

    class GenerationTag(Extension):  # type: ignore[misc]  # jinja2 is not followed by mypy
        """`{% generation %} … {% endgeneration %}` marks what is trained on; it renders as is."""

        tags = {"generation"}  # noqa: RUF012 (the name and kind that Jinja prescribes)

        def parse(self, parser: Any) -> Any:
            line = next(parser.stream).lineno
            body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
            return jinja2.nodes.Scope(body, lineno=line)

    environment = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[GenerationTag, loopcontrols]
    )
    environment.filters["tojson"] = _to_json
    environment.globals["raise_exception"] = _raise_exception
    environment.globals["strftime_now"] = lambda form: datetime.now().strftime(form)
    try:
        return environment.from_string(template)
    except jinja2.TemplateError as error:
        raise ChatTemplateError(f"the chat template is not valid Jinja: {error}") from None


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
    )


def _raise_exception(message: str) -> None:
    import jinja2

    raise jinja2.TemplateError(message)
