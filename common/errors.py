"""The errors a user sees: what is wrong, why, and what to do next.

Raised anywhere below the command line for faults that the user can mend; the command line prints
them without a traceback and exits with code 2.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence

EXIT_BAD_INPUT = 2


class Told(Exception):
    """An error in plain words, with its mend.

    `problem` names the thing and the reason; `mend` says what to do; `details` lists every single
    fault when there are several.
    """

    def __init__(self, problem: str, mend: str = "", *, details: Sequence[str] = ()) -> None:
        self.problem = problem
        self.mend = mend
        self.details = tuple(details)
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [self.problem, *(f"  - {detail}" for detail in self.details)]
        if self.mend:
            lines.append(f"hint: {self.mend}")
        return "\n".join(lines)


class UserError(Told):
    """A fault in the input or the machine."""


class Lack(Told):
    """What the machine ran out of. No fault of the input: what takes a `UserError` as a verdict on
    a file or a candidate (broken, cannot be made) must let this one pass."""


def near_names(name: str, choices: Iterable[str]) -> str:
    """A sentence that suggests the closest of `choices` and lists them all."""
    known = sorted(choices)
    near = difflib.get_close_matches(name.lower(), [k.lower() for k in known], n=1, cutoff=0.5)
    hit = next((k for k in known if near and k.lower() == near[0]), None)
    listed = f"known: {', '.join(known)}"
    return f"did you mean '{hit}'? ({listed})" if hit else listed
