"""Progress bars for long work: on stderr, and only where a person watches."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tqdm import tqdm


def progress_bar(what: str, *, unit: str, total: int | None = None) -> tqdm[Any]:
    """A bar that vanishes when done; silent when stderr is no terminal (a log, a pipe).

    Units of `B` are shown in kB, MB, GB. Use as a context manager and call `update`.
    """
    from tqdm import tqdm

    return tqdm(
        total=total,
        desc=what,
        unit=unit,
        unit_scale=unit == "B",
        leave=False,
        file=sys.stderr,
        disable=not sys.stderr.isatty(),
    )
