"""`edgeforge data`: prepare a data file for training, or write example data."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from toolchain.options import add_options

HELP = "prepare training data (splits, duplicates, lengths), or write example data"
EXAMPLES = (
    "edgeforge data prepare faq.csv --map question=ask --map answer=reply --out data",
    "edgeforge data prepare chats.jsonl --model demo --max-tokens 256 --out data",
    "edgeforge data prepare reviews.csv --map text=review --map label=rating --out data",
    "edgeforge data prepare big.parquet --split 0.9,0.05,0.05 --seed 7 --dry-run --out data",
    "edgeforge data prepare reviews.csv more-texts.jsonl --variants 6 --out data",
    "edgeforge data sample --format qa --count 100 --out qa.csv",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Sub-verbs and their options."""
    verbs = parser.add_subparsers(dest="action", required=True, metavar="ACTION")
    _prepare_arguments(
        verbs.add_parser("prepare", help="splits and a report from data files", allow_abbrev=False)
    )
    sample = verbs.add_parser("sample", help="write example data", allow_abbrev=False)
    _format(sample, required=True)
    sample.add_argument(
        "--count", type=int, default=100, metavar="N", help="how many rows (default: 100)"
    )
    sample.add_argument("--seed", type=int, default=0, metavar="N", help="other rows (default: 0)")
    sample.add_argument(
        "--out",
        type=Path,
        required=True,
        metavar="FILE",
        help="the suffix says the kind: .jsonl, .json, .csv or .parquet",
    )
    add_options(sample, "json")


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    option = parser.add_argument
    option(
        "files", nargs="+", type=Path, metavar="FILE", help=".json, .jsonl, .csv, .tsv, .parquet"
    )
    option(
        "--out",
        type=Path,
        default=Path("data"),
        metavar="DIR",
        help="folder of splits and report, replaced as a whole (default: data)",
    )
    _format(parser, required=False)
    add_options(parser, "map")
    option(
        "--split",
        default="0.8,0.1,0.1",
        metavar="A,B,C",
        help="shares of train, validation and test (default: 0.8,0.1,0.1)",
    )
    option("--seed", type=int, default=0, metavar="N", help="another assignment (default: 0)")
    option("--model", metavar="PATH_OR_HUB_ID", help="whose tokenizer measures the rows")
    option("--max-tokens", type=int, metavar="N", help="context (default: the model's)")
    option("--drop-long", action="store_true", help="leave out rows whose answer does not fit")
    option(
        "--variants",
        type=int,
        default=0,
        metavar="N",
        help="classification: make N texts of each training text's own words, without a label, for "
        "the teacher of a distillation (default: 0)",
    )
    option("--cache", type=Path, metavar="DIR", help="Arrow tables (default: that of `datasets`)")
    add_options(parser, "trust_remote_code", "json", "dry_run")


def _format(parser: argparse.ArgumentParser, *, required: bool) -> None:
    default = "" if required else " (default: seen from the columns)"
    parser.add_argument(
        "--format",
        required=required,
        metavar="NAME",
        help=f"alpaca, qa, chat, classification or text{default}",
    )


def run(args: argparse.Namespace) -> int:
    """Run one sub-verb. Raises `UserError` for every fault of the data."""
    return _prepare(args) if args.action == "prepare" else _sample(args)


def _prepare(args: argparse.Namespace) -> int:
    from toolchain.checkpoint.locate import locate
    from toolchain.data.prepare.mapping import parse_mapping
    from toolchain.data.prepare.prepare import Settings, prepare
    from toolchain.data.prepare.split import parse_ratios

    settings = Settings(
        inputs=tuple(args.files),
        out=args.out,
        form=args.format,
        mapping=parse_mapping(args.map),
        ratios=parse_ratios(args.split),
        seed=args.seed,
        model=locate(args.model) if args.model else None,
        max_tokens=args.max_tokens,
        drop_long=args.drop_long,
        variants=args.variants,
        cache=args.cache,
        trust_remote_code=args.trust_remote_code,
    )
    report = prepare(settings, dry_run=args.dry_run)
    if args.json:
        print(json.dumps(report, indent=2, ensure_ascii=False))
        return 0
    print("\n".join(_summary(report)))
    print("dry run: nothing was written" if args.dry_run else f"written to {args.out}")
    return 0


def _summary(report: Mapping[str, Any]) -> list[str]:
    from toolchain.data.prepare.labels import label_lines

    count = report["rows_conflicting"]
    conflicts = f"{count} with another label than before, " if count else ""
    lines = [
        f"{report['rows_read']} rows read, {report['rows_kept']} kept: "
        f"{report['rows_empty']} empty, {report['rows_duplicate']} duplicates, "
        f"{conflicts}"
        f"{report['rows_dropped_long']} too long"
    ]
    for name, split in report["splits"].items():
        spoken = ", ".join(f"{count} {code}" for code, count in split["languages"].items())
        tokens = split["tokens"]
        lengths = f"; tokens {_lengths(tokens)}, {split['truncated']} truncated" if tokens else ""
        lines.append(f"{name:<11}{split['rows']:>8} ({split['share']:.1%}): {spoken}{lengths}")
    if report["rows_unlabelled"] or report["rows_variants"]:
        lines.append(
            f"without label, for a teacher: {report['rows_unlabelled']} texts, "
            f"{report['rows_variants']} variants of training texts"
        )
    return [*lines, *label_lines(report["labels"] or {})]


def _lengths(tokens: Mapping[str, int]) -> str:
    return f"{tokens['min']}..{tokens['max']} (median {tokens['median']}, p95 {tokens['p95']})"


def _sample(args: argparse.Namespace) -> int:
    from toolchain.data.prepare.sample import sample

    rows = sample(args.format, args.count, args.out, seed=args.seed)
    if args.json:
        facts = {"path": str(args.out), "format": args.format, "rows": len(rows)}
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print(f"{len(rows)} rows written to {args.out}")
    return 0
