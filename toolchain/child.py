"""Python processes of our own: their command and environment, wherever they are started from."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from common.errors import UserError

ROOT = Path(__file__).resolve().parents[1]


def module_command(module: str, *arguments: object) -> list[str]:
    """The command that runs one of our modules with this Python; never a module of the same name
    that lies in the current folder (-P)."""
    return [sys.executable, "-P", "-m", module, *map(str, arguments)]


def script_command(script: Path) -> list[str]:
    """The command that runs a script of this checkout. Raises `UserError` when it is not there."""
    if not script.is_file():
        raise UserError(f"{script} is missing", "run edgeforge from its source checkout")
    return [sys.executable, str(script)]


def environment(**more: str) -> dict[str, str]:
    """This process's environment with our packages importable and nothing fetched silently."""
    search = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    return {**os.environ, "PYTHONPATH": search, **offline, **more}
