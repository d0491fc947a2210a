"""Find the chat family that renders as a Jinja template does, and its Go TEMPLATE.

The choice is made by what the template renders on `conversations.ALL`, never by the model's name.
Kinds of conversation that the template itself refuses (many have no system role) are left out and
reported. When no family renders the same, `ChatFamilyError` names the nearest one and where it
first differs.

    match = match_family(template, bos_token="<s>", eos_token="</s>")
    match.family, match.stops, match.go_template
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from common.errors import UserError
from toolchain.data.chat import ChatTemplateError, Message, render_chat
from toolchain.export.ollama.conversations import ALL, PLAIN, Conversation
from toolchain.export.ollama.families import Family, Layout, Strip, layouts, load_families
from toolchain.export.ollama.go_template import go_template
from toolchain.export.ollama.spacing import common_length, respaced, squeezed

_MARK = "\x00"
_DAYS = (datetime(2024, 7, 1, 8, 30), datetime(2025, 11, 23, 19, 45))
_SHOWN = 60
_WAYS: tuple[Strip, ...] = ("keep", "both", "end", "start", "newlines")
_HINT = "use Ollama 0.30 or newer, which reads the Jinja template inside the GGUF"


class ChatFamilyError(UserError):
    """No known family renders what the template renders."""


@dataclass(frozen=True)
class Match:
    """A family proven to render as the Jinja template does.

    `go_template` leaves out the leading BOS when the engine adds it. `compared` and `left_out` name
    kinds of conversation, the latter with the template's reason. `notes` are for the report.
    """

    family: str
    title: str
    layout: Layout
    stops: tuple[str, ...]
    go_template: str
    begins_with_bos: bool
    compared: tuple[str, ...]
    left_out: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()

    @property
    def default_system(self) -> str | None:
        """The system message that the template brings along when a conversation has none."""
        return self.layout.default_system

    def render(self, messages: Sequence[Message]) -> str:
        """The prompt without the leading BOS, as the engine gets it."""
        return self.layout.render(messages)


@dataclass(frozen=True)
class _Rendered:
    """What the Jinja template makes of a conversation, without the leading BOS."""

    conversation: Conversation
    text: str


@dataclass(frozen=True)
class _Miss:
    """How far a layout came: conversations that were equal before the first that differs."""

    family: Family
    equal: int
    conversation: Conversation
    expected: str
    got: str

    @property
    def nearness(self) -> tuple[int, int]:
        """Conversations that are equal, then characters (blanks aside) equal in the next one."""
        texts = (squeezed(self.expected), squeezed(self.got))
        return self.equal, common_length(*texts)


def match_family(
    jinja_template: str,
    *,
    bos_token: str | None,
    eos_token: str | None,
    engine_adds_bos: bool = True,
) -> Match:
    """The family whose layout renders every conversation as `jinja_template` does.

    `engine_adds_bos`: whether the GGUF tells the engine to put BOS before every prompt
    (`tokenizer.ggml.add_bos_token`). Raises `ChatFamilyError` when none renders the same, and
    `ChatTemplateError` when the template renders no conversation at all.
    """
    rendered, left_out = _render_all(jinja_template, bos_token, eos_token)
    rendered, with_bos = _without_bos(rendered, bos_token)
    jinja = _Jinja(jinja_template, bos_token, eos_token, with_bos)
    nearest: _Miss | None = None
    for family, layout in _candidates(jinja, rendered):
        found = _first_miss(family, layout, rendered)
        if found is None:
            if with_bos and not engine_adds_bos:
                layout = replace(layout, start=f"{bos_token}{layout.start}")
            return Match(
                family=family.name,
                title=family.title,
                layout=layout,
                stops=family.stops,
                go_template=go_template(layout),
                begins_with_bos=with_bos,
                compared=tuple(one.conversation.kind for one in rendered),
                left_out=left_out,
                notes=_notes(layout, with_bos, engine_adds_bos and bool(bos_token)),
            )
        nearest = max(nearest or found, found, key=lambda miss: miss.nearness)
    raise _refusal(nearest)


@dataclass(frozen=True)
class _Jinja:
    """The template and its tokens. Called, it renders without the leading BOS (None: refused)."""

    template: str
    bos_token: str | None
    eos_token: str | None
    with_bos: bool

    def __call__(self, messages: tuple[Message, ...]) -> str | None:
        try:
            text = render_chat(
                self.template, messages, bos_token=self.bos_token, eos_token=self.eos_token
            )
        except ChatTemplateError:
            return None
        return text.removeprefix(self.bos_token or "") if self.with_bos else text


def _render_all(
    template: str, bos_token: str | None, eos_token: str | None
) -> tuple[list[_Rendered], tuple[tuple[str, str], ...]]:
    """Every conversation that the template renders, and the kinds it refuses with its reasons."""
    rendered: list[_Rendered] = []
    refused: list[tuple[str, str]] = []
    for conversation in ALL:
        try:
            texts = [
                render_chat(
                    template,
                    conversation.messages,
                    bos_token=bos_token,
                    eos_token=eos_token,
                    now=day,
                )
                for day in _DAYS
            ]
        except ChatTemplateError as error:
            refused.append((conversation.kind, error.problem))
            continue
        if texts[0] != texts[1]:
            raise ChatFamilyError(
                "the chat template writes today's date, which a fixed Go TEMPLATE cannot", _HINT
            )
        rendered.append(_Rendered(conversation, texts[0]))
    if not any(not one.conversation.has_system for one in rendered):
        raise ChatTemplateError(
            "the chat template renders none of the trial conversations: "
            + (refused[0][1] if refused else "no reason given"),
            "check chat_template and the special tokens of the checkpoint's tokenizer",
        )
    return rendered, tuple(refused)


def _without_bos(rendered: list[_Rendered], bos_token: str | None) -> tuple[list[_Rendered], bool]:
    """The texts without their leading BOS, where every one has it."""
    if not bos_token or not all(one.text.startswith(bos_token) for one in rendered):
        return rendered, False
    return [replace(one, text=one.text.removeprefix(bos_token)) for one in rendered], True


def _candidates(jinja: _Jinja, rendered: Sequence[_Rendered]) -> Iterator[tuple[Family, Layout]]:
    """Layouts worth comparing in full: each as listed, and, once the plain conversations are right,
    as listed or with the template's blanks, with every way of stripping contents."""
    plain = [one for one in rendered if one.conversation in PLAIN]
    bos, eos = jinja.bos_token or "", jinja.eos_token or ""
    for family in load_families():
        for bare in layouts(family, bos_token=bos, eos_token=eos):
            layout = _adapted(bare, plain, jinja)
            yield family, layout
            for one in (layout, respaced(layout, jinja)):
                if one is None or _first_miss(family, one, plain) is not None:
                    continue
                yield from ((family, way) for way in _strippings(one))


def _adapted(bare: Layout, plain: Sequence[_Rendered], jinja: _Jinja) -> Layout:
    """The layout with what the plain conversations tell: BOS of the first turn taken by the engine,
    system messages left out, a default system message."""
    layout, bos = bare, jinja.bos_token
    if bos and jinja.with_bos and bare.place != "block" and bare.user.before.startswith(bos):
        layout = replace(layout, first_user_before=bare.user.before.removeprefix(bos))
    texts = {one.conversation.kind: one.text for one in plain}
    if texts.get("user") == texts.get("system, user"):
        layout = replace(layout, place="left_out")
    user = next(one for one in plain if not one.conversation.has_system)
    return replace(layout, default_system=_default_system(layout, user, bos or ""))


def _default_system(layout: Layout, user: _Rendered, bos: str) -> str | None:
    """What stands where a system message would, in a conversation that has none."""
    messages = user.conversation.messages
    marked = replace(layout, default_system=_MARK).render(messages)
    bare = squeezed(bos)
    for form in (str, lambda text: squeezed(text).removeprefix(bare)):
        text = form(user.text)
        if form(layout.render(messages)) == text:
            return None
        before, _, after = form(marked).partition(_MARK)
        fits = text.startswith(before) and text.endswith(after)
        if fits and len(text) >= len(before) + len(after):
            return text[len(before) : len(text) - len(after)]
    return None


def _strippings(layout: Layout) -> Iterator[Layout]:
    hosted = layout.place in ("first_user", "last_user")
    ways = (_WAYS, _WAYS, _WAYS, _WAYS if hosted else ("keep",))
    for system, user, assistant, after_system in itertools.product(*ways):
        yield replace(
            layout,
            system=replace(layout.system, strip=system),
            user=replace(layout.user, strip=user),
            assistant=replace(layout.assistant, strip=assistant),
            strip_after_system=after_system,
        )


def _first_miss(family: Family, layout: Layout, rendered: Sequence[_Rendered]) -> _Miss | None:
    for equal, one in enumerate(rendered):
        got = layout.render(one.conversation.messages)
        if got != one.text:
            return _Miss(family, equal, one.conversation, one.text, got)
    return None


def _notes(layout: Layout, with_bos: bool, engine_adds_bos: bool) -> tuple[str, ...]:
    notes = []
    if engine_adds_bos and not with_bos:
        notes.append("the engine puts BOS before the prompt, the chat template does not")
    if layout.place == "left_out":
        notes.append("the chat template leaves system messages out, and so does TEMPLATE")
    return tuple(notes)


def _refusal(nearest: _Miss | None) -> ChatFamilyError:
    if nearest is None:  # families.yaml is empty
        return ChatFamilyError("no chat families are known", _HINT)
    at = common_length(nearest.expected, nearest.got)
    return ChatFamilyError(
        "no known chat family renders what the chat template renders; "
        f"nearest is {nearest.family.title}",
        _HINT,
        details=(
            f"first difference in '{nearest.conversation.kind}' after {at} characters "
            f"({nearest.expected[max(at - _SHOWN, 0) : at]!r})",
            f"the chat template goes on with {nearest.expected[at : at + _SHOWN]!r}",
            f"{nearest.family.title} goes on with {nearest.got[at : at + _SHOWN]!r}",
        ),
    )
