"""Write docs/licences.md: the licence of every package in the lock, as the package itself says.

    python scripts/licence_table.py            # after a change of requirements.lock
    python scripts/licence_table.py --check    # exit code 1 when the page is not up to date

The rows stand between two marks; the rest of the page is written by hand. A package that this
machine does not install (another system's, CUDA's) keeps its row while its version is the same.
"""

from __future__ import annotations

import argparse
import re
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from runtimes.lockfile import Pin, read_lock  # noqa: E402 (found only after the path is set)

PAGE = ROOT / "docs" / "licences.md"
BEGIN, END = "<!-- licences: begin -->", "<!-- licences: end -->"
_ROW = re.compile(r"\| (?P<name>\S+) \| (?P<version>\S+) \| (?P<licence>[^|]+) \|")
_LONGEST = 60  # above it the field holds the licence's text
# What the packages' own metadata leave out, as their licence files or their sources say.
_TOLD_ELSEWHERE = {
    "cuda-toolkit": "NVIDIA's own (CUDA EULA)",
    "sigstore-models": "MIT",
    "tzdata": "Apache-2.0",
    "word2number": "MIT",
    "httpx2-jsfetch": "not known: for emscripten alone, never installed here",
}


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 when it differs"
    )
    options = parser.parse_args()
    page = PAGE.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        print(f"error: {PAGE} lacks the marks {BEGIN} and {END}", file=sys.stderr)
        return 2
    rows, unknown = table(read_lock(), rows_of(page))
    if unknown:
        print(f"error: no licence is known of {', '.join(unknown)}", file=sys.stderr)
        print("hint: run this where they are installed, or name it in this script", file=sys.stderr)
        return 2
    made = f"{before}{BEGIN}\n{rows}\n{END}{after}"
    if options.check:
        return int(made != page)
    PAGE.write_text(made, "utf-8")
    return 0


def table(pins: list[Pin], known: dict[tuple[str, str], str]) -> tuple[str, list[str]]:
    """The rows of these pins, and the names of those whose licence nothing tells."""
    lines, unknown = ["| package | version | licence |", "|---|---|---|"], []
    versions: dict[str, set[str]] = {}
    for pin in pins:
        versions.setdefault(pin.name, set()).add(pin.version)
    for name, version in sorted((name, one) for name, every in versions.items() for one in every):
        licence = licence_of(name, versions[name]) or known.get((name, version))
        if licence is None:
            unknown.append(name)
        else:
            lines.append(f"| {name} | {version} | {licence} |")
    return "\n".join(lines), unknown


def rows_of(page: str) -> dict[tuple[str, str], str]:
    """(package, version) → licence, as the page has them."""
    return {(row["name"], row["version"]): row["licence"] for row in _ROW.finditer(page)}


def licence_of(name: str, versions: set[str]) -> str | None:
    """What the installed package says of itself; None when none of these versions is installed.
    (The lock has two of a package where the newest Python wants another.)"""
    if told := _TOLD_ELSEWHERE.get(name):
        return told
    try:
        found = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    if found.version.partition("+")[0] not in versions:
        return None
    fields: Any = found.metadata
    if expression := fields.get("License-Expression"):
        return str(expression)
    text = " ".join((fields.get("License") or "").split())
    if not text or len(text) > _LONGEST or text.lower() == "dual license":
        classes = (line.split(" :: ") for line in fields.get_all("Classifier") or ())
        text = (
            ", ".join(
                parts[-1]
                for parts in classes
                if parts[0] == "License" and parts[-1] != "DFSG approved"
            )
            or text[:_LONGEST]
        )
    return text.replace("|", "/") or None


if __name__ == "__main__":
    sys.exit(main())
