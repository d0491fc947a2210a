"""Which tokens of two tokenizers are predicted from the same text.

index = aligned(own_borders, other_borders)

A place of the student is compared with the teacher's where both have read the same characters of
the same message: each predicts there what comes next, in its own tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

Span = tuple[int, int]
Border = tuple[int, int]  # which message, how many of its characters are read


def borders(spans: Sequence[Span], text: str) -> dict[int, int]:
    """Characters of `text` that are read → the first token that is then predicted.

    Tokenizers give the space before a word to either side, and some leave it out of the span: white
    space at the end of what was read does not count, and the first border there is the one where
    nothing of it was read.
    """
    found: dict[int, int] = {}
    read = 0
    for number, (start, end) in enumerate(spans):
        if start == end:  # special tokens have no text
            continue
        found.setdefault(len(text[:read].rstrip()), number)
        read = max(read, end)
    found.setdefault(len(text[:read].rstrip()), len(spans))
    return found


def message_borders(spans: Sequence[Span], text: str, messages: Sequence[str]) -> dict[Border, int]:
    """The borders within each message of a rendered conversation, whatever its template writes
    between them; a plain text is a conversation of one. A message that the template has changed has
    none."""
    found: dict[Border, int] = {}
    everywhere = borders(spans, text)
    cursor = 0
    for number, message in enumerate(messages):
        content = message.strip()
        start = text.find(content, cursor) if content else -1
        if start < 0:
            continue
        cursor = start + len(content)
        first = len(text[:start].rstrip())
        for read, token in everywhere.items():
            if first <= read <= cursor:
                found.setdefault((number, max(0, read - start)), token)
    return found


def aligned(
    own: Mapping[Border, int], other: Mapping[Border, int], places: Sequence[int], length: int
) -> list[int]:
    """For each of the student's `places` (numbers of predicted tokens) the position of the logits
    that the teacher predicts the same from, within its `length` tokens; -1 where there is none."""
    border_of = {token: border for border, token in own.items()}
    found = []
    for place in places:
        token = other.get(border_of.get(place, (-1, -1)), 0)
        found.append(token - 1 if 0 < token <= length else -1)
    return found
