"""`python -m toolchain` and the command `edgeforge`."""

from __future__ import annotations

import sys

from toolchain.cli import main as run


def main() -> None:
    """Entry point of the command."""
    sys.exit(run())


if __name__ == "__main__":
    main()
