"""Take the blanks between a layout's texts from what the Jinja template really renders.

Templates of one family differ in blanks (a newline after a block, indents that a template file
brings along), and blanks are tokens too. So a family is recognized with blanks left aside, and the
exact texts are then read off: contents are replaced by marks, and what stands between two marks is
split where the family's texts meet.

For conversations of system (S), user (U) and assistant (A), with the texts b(efore) and a(fter):

    U       start Ub | Ua generation
    U A U   start Ub | Ua Ab | Aa Ub | Ua generation
    S U     start Sb | Sa Ub | Ua generation            (system as a block of its own)
            start Ub Sb | Sa | Ua generation            (system inside the first user message)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace

from toolchain.data.chat import Message
from toolchain.export.ollama.families import Layout

Render = Callable[[tuple[Message, ...]], str | None]

_MARK = "qX{}Xq"


def squeezed(text: str) -> str:
    """The text without any blank."""
    return "".join(text.split())


def common_length(one: str, other: str) -> int:
    """How many characters two texts have in common at their beginning."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(one), len(other)))


def respaced(layout: Layout, render: Render) -> Layout | None:
    """The layout with the blanks that `render` shows; None when its texts are other ones.

    `render` gives the Jinja template's prompt without a leading BOS, or None where it refuses.
    """
    fitted = _read_off(layout, render)
    return fitted if fitted is not None and _texts(fitted) == _texts(layout) else None


def _texts(layout: Layout) -> tuple[str, ...]:
    frames = (layout.system, layout.user, layout.assistant)
    texts = [text for frame in frames for text in (frame.before, frame.after)]
    return tuple(squeezed(text) for text in (*texts, layout.generation))


def _read_off(layout: Layout, render: Render) -> Layout | None:
    opening = _between(render, "user")
    turns = _between(render, "user", "assistant", "user", "assistant", "user")
    if opening is None:
        return None
    if turns is None:
        return None
    start_and_user, user_and_end = opening
    _, user_to_assistant, assistant_to_user, *_ = turns
    user_after = _common_start(user_to_assistant, user_and_end, layout.user.after)
    if user_after is None:
        return None
    fitted = replace(
        layout,
        assistant=replace(layout.assistant, before=user_to_assistant.removeprefix(user_after)),
        generation=user_and_end.removeprefix(user_after),
    )
    system = _between(render, "system", "user")
    if layout.place == "left_out" or layout.default_system is None or system is None:
        with_start = _with_start(fitted, start_and_user, assistant_to_user)
        return _with_system(_user_after(with_start, user_after), system)
    return _with_default(_user_after(fitted, user_after), system, start_and_user, assistant_to_user)


def _user_after(layout: Layout | None, after: str) -> Layout | None:
    return None if layout is None else replace(layout, user=replace(layout.user, after=after))


def _with_start(layout: Layout, opening: str, assistant_to_user: str) -> Layout | None:
    """Split what precedes the first user message, and what lies between turns."""
    if layout.first_user_before is not None:
        split = _split(assistant_to_user, layout.assistant.after, layout.user.before)
        if split is None or squeezed(opening) != squeezed(layout.first_user_before):
            return None
        after, before = split
        return replace(
            layout,
            first_user_before=opening,
            user=replace(layout.user, before=before),
            assistant=replace(layout.assistant, after=after),
        )
    before_ = _common_end(opening, assistant_to_user, layout.user.before)
    if before_ is None:
        return None
    return replace(
        layout,
        start=opening.removesuffix(before_),
        user=replace(layout.user, before=before_),
        assistant=replace(layout.assistant, after=assistant_to_user.removesuffix(before_)),
    )


def _with_system(layout: Layout | None, system: list[str] | None) -> Layout | None:
    """Read off the system message's frame; the family's own stays where there is none to read."""
    if layout is None or system is None or layout.place == "left_out":
        return layout
    opening, to_user, _ = system
    if layout.place == "block":
        head, tail = layout.start, layout.user.before
    else:
        first = layout.first_user_before
        head, tail = layout.start + (layout.user.before if first is None else first), ""
    if not opening.startswith(head) or not to_user.endswith(tail):
        return None
    before, after = opening.removeprefix(head), to_user.removesuffix(tail)
    return replace(layout, system=replace(layout.system, before=before, after=after))


def _with_default(
    layout: Layout | None, system: list[str], opening: str, assistant_to_user: str
) -> Layout | None:
    """Read off a system block that is always there, with the message it holds by default."""
    if layout is None or layout.place != "block":
        return None
    before, to_user, _ = system
    user_before = _common_end(to_user, assistant_to_user, layout.user.before)
    fits = opening.startswith(before) and opening.endswith(to_user)
    if user_before is None or not fits or len(opening) < len(before) + len(to_user):
        return None
    return replace(
        layout,
        system=replace(layout.system, before=before, after=to_user.removesuffix(user_before)),
        user=replace(layout.user, before=user_before),
        assistant=replace(layout.assistant, after=assistant_to_user.removesuffix(user_before)),
        default_system=opening[len(before) : len(opening) - len(to_user)],
    )


def _between(render: Render, *roles: str) -> list[str] | None:
    """What the template writes before, between and after the contents of these roles."""
    messages = tuple({"role": r, "content": _MARK.format(i)} for i, r in enumerate(roles))
    text = render(messages)
    if text is None:
        return None
    parts = re.split(_MARK.format(r"(\d+)"), text)
    in_order = parts[1::2] == [str(index) for index in range(len(roles))]
    return parts[::2] if in_order else None


def _common_start(one: str, other: str, like: str) -> str | None:
    """The longest common beginning, if it is `like` but for blanks."""
    return _cut(one[: common_length(one, other)], like)


def _common_end(one: str, other: str, like: str) -> str | None:
    common = _common_start(one[::-1], other[::-1], like[::-1])
    return None if common is None else common[::-1]


def _cut(text: str, like: str) -> str | None:
    """The longest beginning of `text` that is `like` but for blanks."""
    wanted, size, seen = squeezed(like), 0, 0
    for size, character in enumerate(text):
        if character.isspace():
            continue
        if seen == len(wanted):
            return text[:size]
        if character != wanted[seen]:
            return None
        seen += 1
    return text if seen == len(wanted) else None


def _split(text: str, first: str, second: str) -> tuple[str, str] | None:
    """`text` as two parts that are `first` and `second` but for blanks."""
    head = _cut(text, first)
    if head is None or squeezed(text[len(head) :]) != squeezed(second):
        return None
    return head, text[len(head) :]
