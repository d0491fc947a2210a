"""`edgeforge check`: in seconds, what will work with a model, what will not, and what to do."""

from __future__ import annotations

import argparse
import json

from toolchain.options import add_options

HELP = "in seconds, from headers alone: what will work with a model, and what to do"
EXAMPLES = (
    "edgeforge check PATH_OR_HUB_ID",
    "edgeforge check PATH --target jetson",
    "edgeforge check PATH --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The model, and perhaps a target."""
    from toolchain.options import DEMO_MODEL

    parser.add_argument(
        "model",
        nargs="?",
        default=DEMO_MODEL,
        metavar="MODEL",
        help="checkpoint folder or hub id (of which only headers are fetched; default: demo)",
    )
    add_options(parser, "target", "json", "trust_remote_code", optional=("target",))


def run(args: argparse.Namespace) -> int:
    """Print the findings. Exit code 0 when a backend takes the model, else 1. Raises `UserError`
    where there is no model to look at."""
    from targets.registry import load_target
    from toolchain.check.check import check
    from toolchain.checkpoint.locate import headers_of
    from toolchain.report.check import check_text

    target = load_target(args.target) if args.target else None
    with headers_of(args.model) as path:
        checked = check(path, target, trust_remote_code=args.trust_remote_code)
        text = json.dumps(checked.as_json(), indent=2, ensure_ascii=False)
        print(text if args.json else check_text(checked))
    return 0 if checked.works else 1
