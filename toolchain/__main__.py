"""`python -m toolchain` and the command `edgeforge`."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_INTERRUPTED, _BAD_INPUT = 130, 2  # of `common.errors`, which may not load for want of memory


def main() -> None:
    """Entry point of the command."""
    try:
        from toolchain.cli import main as run
        from toolchain.watched import watched
    except KeyboardInterrupt:  # so early that nothing was begun
        sys.exit(_INTERRUPTED)
    except Exception as error:  # for want of memory even a SyntaxError
        print(f"error: edgeforge cannot start: {type(error).__name__} {error}", file=sys.stderr)
        print(
            "hint: memory or file handles ran out (close other programs, raise ulimit -v or -n), "
            "or the installation is damaged: make setup",
            file=sys.stderr,
        )
        sys.exit(_BAD_INPUT)
    sys.exit(watched(lambda: _told(run)))


def _told(run: Callable[[], int]) -> int:
    """The exit code of `run`; one clear message where a library in Rust gave up on a file."""
    from common.damage import is_panic
    from common.errors import EXIT_BAD_INPUT

    try:
        return run()
    except BaseException as error:
        if not is_panic(error):
            raise
        print(f"error: a library gave up on a file: {str(error)[:300]}", file=sys.stderr)
        print("hint: a tokenizer.json may be damaged: fetch it again", file=sys.stderr)
        return EXIT_BAD_INPUT


if __name__ == "__main__":
    main()
