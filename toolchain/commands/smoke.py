"""`edgeforge smoke`: the smoke test again, on a finished bundle."""

from __future__ import annotations

import argparse
import json

from common.errors import UserError
from toolchain.options import MAKE_VARIABLES, add_options, bundle_folder

HELP = "run the smoke test of a finished bundle"
EXAMPLES = (
    "edgeforge smoke --target laptop",
    "edgeforge smoke --target jetson --model PATH --json",
    "edgeforge smoke --target laptop --engine llama-server",
)

_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    add_options(parser, *MAKE_VARIABLES, "json", "dry_run")
    parser.add_argument(
        "--threads", type=_positive, metavar="N", help="threads (default: the best count found)"
    )
    parser.add_argument(
        "--quick", action="store_true", help="one repetition of each figure, no thread sweep"
    )
    parser.add_argument(
        "--engine",
        metavar="NAME",
        help="ollama, llama-server, … (smoke_test.py --help lists them), or auto: the first that "
        "works, as on a device (default: the engine that recorded the answers)",
    )


def run(args: argparse.Namespace) -> int:
    """Test the bundle in a fresh process; 0 when every check passed, 1 when one failed."""
    from toolchain.smoke import LOG_FOLDER, SMOKE_TEST, run_smoke

    if args.host:
        raise UserError(
            "smoke tests on another machine (--host) are not available yet",
            "copy the bundle's folder there and run: python3 smoke_test.py",
        )
    bundle = bundle_folder(args)
    if args.dry_run:
        print(
            f"would run {bundle / SMOKE_TEST} in a fresh process and write {bundle / LOG_FOLDER}/"
        )
        return 0
    result = run_smoke(bundle, threads=args.threads, quick=args.quick, engine=args.engine)
    if args.json:
        print(json.dumps(result.data, indent=2, ensure_ascii=False))
    else:
        print(result.table, end="")
    return 0 if result.passed else _FAILED


def _positive(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no positive whole number")
    return int(text)
