"""The classic combinations of compression, measured on a model, beside what is usually claimed.

    python scripts/bench_classic.py --target laptop --out build/classic
    python scripts/bench_classic.py --model PATH_OR_HUB_ID --recipes classic-int8,classic-int4

Each recipe is built with its ledger, from which the table is made; stages that are finished are not
run again. Writes docs/classic.md, or the file of --table.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

_TABLE = ROOT / "docs" / "classic.md"
_COLUMNS = (
    "recipe | what it does | claimed | measured: against FP32 | against the checkpoint as stored | "
    "KLD to the original | task score kept | planned decode | efficiency"
)


@dataclass(frozen=True)
class Classic:
    """A recipe, what it does, and how much smaller than FP32 it is usually said to make a model."""

    recipe: str
    does: str
    claimed: str


CLASSICS = (
    Classic("classic-int8", "8-bit weights (Q8_0)", "4x"),
    Classic("classic-int4", "4-bit weights (Q4_0)", "8x"),
    Classic("classic-int4-pruned", "half of the parameters, 4-bit weights (Q4_0)", "16x"),
    Classic("classic-distilled-int8", "a tenth of the parameters, distilled; Q8_0", "40x"),
)


def main() -> int:
    """Build, measure, write the table; 2 for bad input."""
    from common.errors import EXIT_BAD_INPUT, UserError

    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--target", default="laptop", help="device (default: laptop)")
    parser.add_argument("--model", default="demo", help="checkpoint (default: the demo model)")
    parser.add_argument("--recipes", help="only these, with commas between")
    parser.add_argument("--out", type=Path, default=Path("build/classic"), help="where builds go")
    parser.add_argument(
        "--table", type=Path, default=_TABLE, help="file (default: docs/classic.md)"
    )
    args = parser.parse_args()
    try:
        text = table_page(args.model, args.target, measured(args))
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    args.table.write_text(text, encoding="utf-8")
    print(text, end="")
    return 0


def measured(args: argparse.Namespace) -> list[tuple[Classic, Mapping[str, Any]]]:
    """Every classic with the last line of its ledger."""
    from toolchain.build import build
    from toolchain.job import BuildRequest
    from toolchain.ledger.file import FILE, read_ledger

    found = []
    for classic in chosen(args.recipes):
        asked = BuildRequest(args.target, args.model, recipe=classic.recipe, out=args.out)
        ledger = read_ledger(build(asked).bundle / FILE)
        found.append((classic, ledger["entries"][-1]))
    return found


def chosen(names: str | None) -> Sequence[Classic]:
    """The classics of these names, all without. Raises `UserError` for a name that is none."""
    from common.errors import UserError, near_names

    known = {classic.recipe: classic for classic in CLASSICS}
    wanted = names.split(",") if names else list(known)
    for name in wanted:
        if name not in known:
            raise UserError(f"'{name}' is no classic recipe", near_names(name, known))
    return [known[name] for name in wanted]


def table_page(model: str, target: str, found: Sequence[tuple[Classic, Mapping[str, Any]]]) -> str:
    """The page with the table."""
    from toolchain.report.markdown import MISSING, figure, table

    def times(value: float | None) -> str:
        return MISSING if value is None else f"{value:.3g}x"

    rows = []
    for classic, line in found:
        share = line["to_original"]["task_share"]
        rows.append(
            (
                classic.recipe,
                classic.does,
                classic.claimed,
                times(line["compression_ratio_fp32"]),
                times(line["compression_ratio"]),
                figure(line["kld_mean"]),
                MISSING if share is None else f"{share:.1%}",
                times(line["to_original"]["speed_up"]),
                times(line["efficiency"]),
            )
        )
    head = (
        "# The classic combinations, measured\n\n"
        f"Model `{model}`, target `{target}`; made by `python scripts/bench_classic.py`.\n\n"
    )
    note = (
        "\n\nClaims count bits: 32 to 8, 32 to 4, and a half or a tenth of the parameters on top. "
        "Files hold more: the scales of the blocks (Q8_0 8.5, Q4_0 4.5 bits per weight), and "
        "matrices that keep a larger type (in Q4_0 the token embedding, where it is the output "
        "too). Planned decode is the planner's for the target, against the checkpoint as stored. "
        "KLD, task score and efficiency: docs/reports.md.\n"
    )
    return head + table(_COLUMNS, rows) + note


if __name__ == "__main__":
    sys.exit(main())
