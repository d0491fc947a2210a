"""`edgeforge report`: everything known of a finished bundle, on one page."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from toolchain.options import add_options

HELP = "write a bundle's whole report: HTML, Markdown and JSON, with what devices measured"
EXAMPLES = (
    "edgeforge report build/edgeforge-demo/laptop",
    "edgeforge report build/edgeforge-demo/jetson --json",
)
_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder of a finished bundle")
    add_options(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Write the report and print the acceptance; 0 when no check failed, 1 when one did."""
    from toolchain.report.acceptance import FAILED, verdict
    from toolchain.report.facts import read_facts
    from toolchain.report.files import write_report_files
    from toolchain.trust.sums import require_sound

    if args.bundle.is_dir():
        require_sound(args.bundle)
    page = write_report_files(args.bundle)
    facts = read_facts(args.bundle)
    items = facts["acceptance"]
    if args.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        for item in items:
            print(f"{item['status']:<13} {item['part']:<7} {item['name']}")
        print(f"report: {page}")
    return _FAILED if verdict(items) == FAILED else 0
