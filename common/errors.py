"""The errors a user sees: what is wrong, why, and what to do next.

Raised anywhere below the command line for faults that the user can mend; the command line prints
them without a traceback and exits with code 2.
"""

from __future__ import annotations

import difflib
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

EXIT_BAD_INPUT = 2
# Kinds of characters that a terminal obeys rather than shows, or that hide what stands there:
# control, format (right-to-left override, zero width), half of a surrogate, private, line ends.
_NOT_SHOWN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})


class Told(Exception):
    """An error in plain words, with its mend.

    `problem` names the thing and the reason; `mend` says what to do; `details` lists every single
    fault when there are several. Names in them may come from anybody's files: each stays one line
    of plain characters.
    """

    def __init__(self, problem: str, mend: str = "", *, details: Sequence[str] = ()) -> None:
        self.problem = plain(problem)
        self.mend = plain(mend)
        self.details = tuple(map(plain, details))
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.problem, *(f"  - {detail}" for detail in self.details)]
        if self.mend:
            lines.append(f"hint: {self.mend}")
        return "\n".join(lines)

    def facts(self) -> dict[str, Any]:
        """What another process needs to raise it again (`told`)."""
        lack = isinstance(self, Lack)
        return {"problem": self.problem, "mend": self.mend, "details": self.details, "lack": lack}


class UserError(Told):
    """A fault in the input or the machine."""


class Lack(Told):
    """What the machine ran out of. No fault of the input: what takes a `UserError` as a verdict on
    a file or a candidate (broken, cannot be made) must let this one pass."""


def told(facts: Mapping[str, Any]) -> Told:
    """The error that another process has told of."""
    kind = Lack if facts["lack"] else UserError
    return kind(facts["problem"], facts["mend"], details=facts["details"])


def plain(text: str) -> str:
    """The text as one line that shows all that is in it: what a terminal would obey or hide is
    written as an escape (`\\n`, `\\x1b`, `\\u202e`)."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(one if is_shown(one) else _escaped(one) for one in text)


def is_shown(character: str) -> bool:
    """Whether a terminal shows the character, rather than obey or hide it."""
    return unicodedata.category(character) not in _NOT_SHOWN


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def near_names(name: str, choices: Iterable[str]) -> str:
    """A sentence that suggests the closest of `choices` and lists them all."""
    known = sorted(choices)
    near = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1, cutoff=0.5)
    hit = next((k for k in known if near and k.lower() == near[0]), None)
    listed = f"known: {', '.join(known)}"
    return f"did you mean '{hit}'? ({listed})" if hit else listed
