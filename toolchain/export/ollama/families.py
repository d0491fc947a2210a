"""The chat families of `families.yaml`: their schema, their layouts, and what a layout renders.

A `Layout` is one way to lay out a conversation: texts around each role's content, where the system
message goes, how contents are stripped. `Layout.render` is the prompt that is expected; the Go
TEMPLATE of `go_template.py` is written from the same values.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict

from common.errors import UserError
from toolchain.data.chat import Message

FAMILIES_FILE = Path(__file__).with_name("families.yaml")

Place = Literal["block", "first_user", "last_user", "left_out"]
# Which blanks are cut off a content before it is laid out.
Strip = Literal["keep", "both", "start", "end", "newlines"]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Around(_Strict):
    """Alternatives for the texts before and after a content."""

    before: str | tuple[str, ...]
    after: str | tuple[str, ...]


class SystemAround(Around):
    place: Place | tuple[Place, ...]


class LayoutEntry(_Strict):
    system: SystemAround | tuple[SystemAround, ...]
    user: Around
    assistant: Around
    generation: str | tuple[str, ...]


class Family(_Strict):
    """One entry of `families.yaml`."""

    name: str
    title: str
    layouts: tuple[LayoutEntry, ...]
    stops: tuple[str, ...]


@dataclass(frozen=True)
class Frame:
    """The text before and after a content, and how the content is stripped."""

    before: str
    after: str
    strip: Strip = "keep"

    def of(self, content: str) -> str:
        return self.before + stripped(content, self.strip) + self.after


@dataclass(frozen=True)
class Layout:
    """One complete way to lay out a conversation, with the model's own tokens filled in.

    `start` comes before everything (blanks, or a BOS that the engine does not add).
    `default_system` stands in when the conversation has no system message (None: nothing does).
    `first_user_before` replaces `user.before` in the first turn, where the engine has put BOS.
    `strip_after_system` is how the user content that follows a system message within the same turn
    is stripped.
    """

    system: Frame
    place: Place
    user: Frame
    assistant: Frame
    generation: str
    start: str = ""
    default_system: str | None = None
    first_user_before: str | None = None
    strip_after_system: Strip = "keep"

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt for these messages, ending with what opens the answer."""
        has_system = messages[0]["role"] == "system"
        system = self._system_text(str(messages[0]["content"]) if has_system else None)
        turns = messages[1:] if has_system else messages
        first_user = next((i for i, one in enumerate(turns) if one["role"] == "user"), None)
        parts = [system if self.place in ("block", "left_out") else ""]
        for index, message in enumerate(turns):
            content = str(message["content"])
            if message["role"] == "assistant":
                parts.append(self.assistant.of(content))
            elif message["role"] == "user":
                host = {"first_user": first_user, "last_user": len(turns) - 1}.get(self.place)
                parts.append(self._user_text(content, system if index == host else "", index == 0))
        return self.start + "".join(parts) + self.generation

    def _system_text(self, content: str | None) -> str:
        if content is not None and self.place != "left_out":
            return self.system.of(content)
        default = self.default_system
        return "" if default is None else self.system.before + default + self.system.after

    def _user_text(self, content: str, system: str, first: bool) -> str:
        before = self.user.before
        if first and self.first_user_before is not None:
            before = self.first_user_before
        rest = stripped(content, self.strip_after_system if system else self.user.strip)
        return before + system + rest + self.user.after


def stripped(content: str, how: Strip) -> str:
    """A content without the blanks that `how` names (Python's notion of a blank, as in Jinja)."""
    match how:
        case "both":
            return content.strip()
        case "start":
            return content.lstrip()
        case "end":
            return content.rstrip()
        case "newlines":
            return content.lstrip("\n")
        case _:
            return content


def load_families(path: Path = FAMILIES_FILE) -> tuple[Family, ...]:
    """Every known family; a `UserError` that names the fault when the file is wrong."""
    import yaml
    from pydantic import TypeAdapter, ValidationError

    try:
        entries = yaml.safe_load(path.read_text(encoding="utf-8"))
        families = TypeAdapter(tuple[Family, ...]).validate_python(entries)
    except (OSError, yaml.YAMLError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None
    except ValidationError as error:
        faults = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
        raise UserError(f"{path} has wrong entries", details=faults) from None
    names = [family.name for family in families]
    if len(set(names)) != len(names):
        raise UserError(f"{path} names a family twice", "give each entry a name of its own")
    return families


def layouts(family: Family, *, bos_token: str, eos_token: str) -> Iterator[Layout]:
    """Every layout of a family (the product of all alternatives) with the tokens filled in."""

    def filled(text: str) -> str:
        return text.replace("{bos}", bos_token).replace("{eos}", eos_token)

    def frames(around: Around) -> list[Frame]:
        pairs = itertools.product(_options(around.before), _options(around.after))
        return [Frame(filled(before), filled(after)) for before, after in pairs]

    for entry in family.layouts:
        systems = [
            (frame, place)
            for system in _options(entry.system)
            for place in _options(system.place)
            for frame in frames(system)
        ]
        for (system, place), user, assistant, generation in itertools.product(
            systems, frames(entry.user), frames(entry.assistant), _options(entry.generation)
        ):
            yield Layout(system, place, user, assistant, filled(generation))


def _options(value: Any) -> tuple[Any, ...]:
    return value if isinstance(value, tuple) else (value,)
