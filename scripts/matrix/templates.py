"""Chat templates: Hugging Face's rendering held against everything else that renders.

Our own serving (`render_chat`), llama-cpp-python's formatter (Jinja), and llama.cpp's built-in
layouts, which a program takes when it does not run Jinja. Ollama's are in docs/ollama-templates.md.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from toolchain.data.chat import ChatTemplateError, render_chat
from toolchain.export.ollama.conversations import ALL

BOS, EOS = "<s>", "</s>"
REFUSED = "(refused)"
_TOOLS = [{"type": "function", "function": {
    "name": "set_lamp", "description": "Set a lamp.",
    "parameters": {"type": "object", "properties": {"percent": {"type": "integer"}}}}}]  # fmt: skip
Messages = Sequence[Mapping[str, Any]]
Render = Callable[[str, Messages, Any], str]
ENGINES: dict[str, Render] = {}


def measure(folder: Path) -> dict[str, dict[str, Any]]:
    """File name to engine to how many conversations are equal, and the first that is not."""
    return {
        file.name: _template(file.read_text("utf-8")) for file in sorted(folder.glob("*.jinja"))
    }


def _template(template: str) -> dict[str, Any]:
    cases: list[tuple[str, Messages, Any]] = [(t.kind, t.messages, None) for t in ALL]
    cases.append(("user, tools", ALL[0].messages, _TOOLS))
    found: dict[str, Any] = {}
    for engine, render in ENGINES.items():
        equal, first = 0, ""
        for kind, messages, tools in cases:
            expected = _hugging_face(template, messages, tools)
            actual = render(template, messages, tools)
            equal += actual == expected
            if actual != expected and not first:
                first = f"{kind}: {_apart(expected, actual)}"
        found[engine] = {"equal": equal, "of": len(cases), **({"first": first} if first else {})}
    return found


def _apart(expected: str, actual: str) -> str:
    if REFUSED in (expected, actual):
        return f"Hugging Face {expected[:30]!r}, here {actual[:30]!r}"
    at = next(
        (i for i, (a, b) in enumerate(zip(expected, actual, strict=False)) if a != b),
        min(len(expected), len(actual)),
    )
    return f"at character {at} {expected[at : at + 24]!r}, here {actual[at : at + 24]!r}"


def _hugging_face(template: str, messages: Messages, tools: Any) -> str:
    import jinja2
    from transformers.utils.chat_template_utils import render_jinja_template

    try:
        rendered, _ = render_jinja_template(
            [[dict(message) for message in messages]], chat_template=template, tools=tools,
            add_generation_prompt=True, bos_token=BOS, eos_token=EOS,
        )  # fmt: skip
    except (jinja2.TemplateError, TypeError, ValueError):
        return REFUSED
    return str(rendered[0])


def _own(template: str, messages: Messages, tools: Any) -> str:
    try:
        return render_chat(template, messages, bos_token=BOS, eos_token=EOS, tools=tools)
    except ChatTemplateError:
        return REFUSED


def _formatter(template: str, messages: Messages, tools: Any) -> str:
    from llama_cpp.llama_chat_format import Jinja2ChatFormatter

    maker = Jinja2ChatFormatter(template=template, eos_token=EOS, bos_token=BOS)
    try:
        return str(maker(messages=[dict(message) for message in messages], tools=tools).prompt)
    except Exception:  # it passes on whatever Jinja raises, and more
        return REFUSED


def _built_in(template: str, messages: Messages, tools: Any) -> str:
    import llama_cpp

    if tools:
        return REFUSED
    held = [
        (str(message["role"]).encode(), str(message["content"]).encode()) for message in messages
    ]
    chat = (llama_cpp.llama_chat_message * len(held))(
        *(llama_cpp.llama_chat_message(role=role, content=content) for role, content in held)
    )
    room = 1 << 16
    buffer = ctypes.create_string_buffer(room)
    size = llama_cpp.llama_chat_apply_template(
        template.encode(), chat, len(held), True, buffer, room
    )
    return buffer.raw[:size].decode("utf-8", "replace") if size >= 0 else REFUSED


ENGINES.update(
    {"our serving": _own, "llama-cpp-python": _formatter, "llama.cpp built-in": _built_in}
)
