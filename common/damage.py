"""Data of another shape than ours: what trips over it becomes one error that names the file.

with told_as_damage(path, "build it again"):
    ...  # takes values out of a file's JSON
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from common.errors import UserError

# What taking values out of JSON of another shape raises.
_SHAPE = (
    *(KeyError, IndexError, TypeError, ValueError, AttributeError, StopIteration),
    *(ArithmeticError, RecursionError, AssertionError),
)


_PANIC = "PanicException"  # what libraries in Rust raise where they met what they never expected


def is_panic(error: BaseException) -> bool:
    """Whether a library in Rust gave up; it derives from `BaseException`, so that nothing else
    takes it."""
    return type(error).__name__ == _PANIC


@contextlib.contextmanager
def told_as_damage(what: object, mend: str) -> Iterator[None]:
    """For the duration of the block; errors that are told already pass."""
    try:
        yield
    except UserError:
        raise
    except BaseException as error:
        if not isinstance(error, _SHAPE) and not is_panic(error):
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
        raise UserError(f"{what} is damaged or of another version ({reason})", mend) from error
