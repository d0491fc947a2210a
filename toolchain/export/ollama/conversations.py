"""The conversations on which a chat template and a family are compared.

Plain ones find the layout; padded and awkward ones find out how contents are stripped and that
nothing in them is taken for markup. Each ends with a user message, as a prompt does.
"""

from __future__ import annotations

from dataclasses import dataclass

from toolchain.data.chat import Message


@dataclass(frozen=True)
class Conversation:
    """A kind of conversation and its messages."""

    kind: str
    messages: tuple[Message, ...]

    @property
    def has_system(self) -> bool:
        return bool(self.messages[0]["role"] == "system")


def _talk(kind: str, *contents: str, system: str | None = None) -> Conversation:
    turns = [
        {"role": "assistant" if index % 2 else "user", "content": content}
        for index, content in enumerate(contents)
    ]
    head = [] if system is None else [{"role": "system", "content": system}]
    return Conversation(kind, (*head, *turns))


_SYSTEM = "Answer in one word."
_AWKWARD = (
    "He said \"yes\" and 'no'.\n\n\tA tab, a \\n that is no newline,\n{{ .Content }} {% raw %} {x} "
    '<b>&amp;</b> """three quotes""" `code` 100 %s $HOME #end'
)
_CHINESE = "把客厅的灯打开，亮度调到百分之五十。「好吗？」🙂"

PLAIN = (
    _talk("user", "What is the capital of France?"),
    _talk("system, user", "What is the capital of France?", system=_SYSTEM),
    _talk("several turns", "Hi", "Hello.", "Who are you?", "A model.", "Good to know"),
    _talk("system, several turns", "Hi", "Hello.", "Who are you?", system=_SYSTEM),
)
PADDED = (
    _talk("user, padded", "  \n one\ttwo \n\n "),
    _talk("user, wide blanks", "\u3000\xa0全角\u2003\u3000"),
    _talk("several turns, user padded", "\n Hi \n", "Hello.", " \nagain\n "),
    _talk("several turns, assistant padded", "Hi", "\n\n  Hello. \n ", "again"),
    _talk("several turns, assistant after a newline", "Hi", "\nHello.", "again"),
    _talk("system padded", "Hi", system=" \n Answer in one word. \n "),
    _talk("system, user padded", " \n Hi \n", system=_SYSTEM),
    _talk("system, several turns, user padded", " Hi ", "Hello.", "\n again ", system=_SYSTEM),
)
AWKWARD = (
    _talk("user, awkward", _AWKWARD),
    _talk("several turns, awkward", _AWKWARD, _AWKWARD, _CHINESE),
    _talk("system, several turns, awkward", _CHINESE, _CHINESE, _AWKWARD, system=_AWKWARD),
    _talk("system, user, Chinese", _CHINESE, system=_CHINESE),
)
ALL = (*PLAIN, *PADDED, *AWKWARD)
