"""Write what the fault suite proved into docs/faults.md.

    python scripts/fault_table.py build/faults/proven.jsonl

The table stands between two marks in the page; the rest of the page is written by hand.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "faults.md"
BEGIN, END = "<!-- proven: begin -->", "<!-- proven: end -->"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("record", type=Path, help="what `pytest tests/faults --record` wrote")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page to write into")
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.record.read_text("utf-8").splitlines()]
    page = options.page.read_text("utf-8")
    before, _, rest = page.partition(BEGIN)
    _, mark, after = rest.partition(END)
    if not mark:
        print(f"{options.page} lacks the marks {BEGIN} and {END}", file=sys.stderr)
        return 2
    options.page.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{after}", "utf-8")
    return 0


def table(rows: list[dict[str, Any]]) -> str:
    """The rows as a Markdown table, sorted; the last figure of a case counts."""
    last = {(row["part"], row["case"]): row for row in rows}
    lines = ["| part | what | proven | time |", "|---|---|---|---|"]
    for (part, case), row in sorted(last.items()):
        seconds = f"{row['seconds']:.0f} s" if row["seconds"] else ""
        lines.append(f"| {part} | {case} | {row['count']:,} {row['unit']} | {seconds} |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
