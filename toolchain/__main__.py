"""`python -m toolchain` and the command `edgeforge`."""

from __future__ import annotations

import sys

_INTERRUPTED = 130


def main() -> None:
    """Entry point of the command."""
    try:
        from toolchain.cli import main as run
    except KeyboardInterrupt:  # so early that nothing was begun
        sys.exit(_INTERRUPTED)
    sys.exit(run())


if __name__ == "__main__":
    main()
