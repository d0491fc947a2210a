#!/usr/bin/env python3
"""What works with which family of models: tried cell by cell, then written down.

Tiny checkpoints of every family go through every stage and backend. The result is one data file,
from which `edgeforge check` speaks, and docs/models.md.

    .venv/bin/python scripts/model_matrix.py              # all of it, goes on where it stopped
    .venv/bin/python scripts/model_matrix.py --family qwen3 --cell gguf --again refused
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
for _folder in (ROOT, ROOT / "tests", ROOT / "scripts"):
    sys.path.insert(0, str(_folder))
os.environ["PYTHONPATH"] = os.pathsep.join(
    str(folder) for folder in (ROOT, ROOT / "tests", ROOT / "scripts")
)
os.environ.setdefault("OMP_NUM_THREADS", "1")

from matrix.place import Place  # noqa: E402
from matrix.record import data, write  # noqa: E402
from matrix.runner import FAULT, run_all  # noqa: E402
from matrix.templates import measure  # noqa: E402
from matrix.versions import versions  # noqa: E402
from tiny_families import MATRIX  # type: ignore[import-not-found]  # noqa: E402

WORK = ROOT / "build" / "matrix"
DATA = ROOT / "toolchain" / "check" / "families.json"
PAGE = ROOT / "docs" / "models.md"
TEMPLATES = "chat_templates"
ASSETS = ROOT.parent / "shared" / "assets"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--family", action="append", help="can be repeated (default: all)")
    parser.add_argument("--cell", action="append", help="can be repeated (default: all)")
    parser.add_argument("--again", action="append", default=[], help="run cells of a verdict again")
    parser.add_argument("--work", type=Path, default=WORK, help="folder of the trials")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="real tokenizers and templates")
    parser.add_argument("--workers", type=int, default=2, help="processes at a time (default: 2)")
    parser.add_argument("--data", type=Path, default=DATA, help="the data file that check reads")
    parser.add_argument("--page", type=Path, default=PAGE, help="the page (default: docs/)")
    parser.add_argument("--small", action="store_true", help="the sizes of the tests")
    args = parser.parse_args()
    assets = args.assets if args.assets.is_dir() else None
    work = args.work.absolute()
    places = [Place(family, work / family, assets, args.small) for family in args.family or MATRIX]
    start, used = time.perf_counter(), versions()
    results = run_all(
        places,
        lambda name: not args.cell or name in args.cell,
        used,
        workers=args.workers,
        again=frozenset(args.again),
        say=lambda line: print(line, flush=True),
    )
    if not (args.family or args.cell):
        templates = measure(assets / TEMPLATES) if assets else {}
        write(data(places, results, used, templates), args.data, args.page)
    print(f"{len(results)} cells in {(time.perf_counter() - start) / 60:.1f} minutes")
    return 0 if all(result.verdict != FAULT for result in results) else 1


if __name__ == "__main__":
    sys.exit(main())
