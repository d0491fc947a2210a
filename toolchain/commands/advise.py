"""`edgeforge advise`: which recipe suits a case, why, what it costs, and the command to run."""

from __future__ import annotations

import argparse
import json
import sys

from toolchain.options import add_options

HELP = "which recipe suits your case: why, what it costs, what to expect, the command"
EXAMPLES = (
    "edgeforge advise --target jetson --goal memory",
    "edgeforge advise --device phone --goal task --labelled 5000 --training gpu --hours 8",
    "edgeforge advise --model PATH --target cpu-server --goal speed --quality high --json",
    "edgeforge advise --target jetson --lang zh-CN",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Model and target, a flag for each question, and how to answer."""
    from toolchain.advise.questions import add_questions

    add_options(parser, "model", "target", optional=("target",))
    parser.add_argument(
        "--student", metavar="PATH_OR_HUB_ID", help="a smaller model of the family, to distil into"
    )
    add_options(parser, "out")
    add_questions(parser)
    add_options(parser, "lang", "json")


def run(args: argparse.Namespace) -> int:
    """Ask what is open where a person sits there, and print the advice. Raises `UserError` for
    contradictory flags and for a model or target that is refused."""
    from toolchain.advise.case import settle_case
    from toolchain.advise.figures import earlier_builds
    from toolchain.advise.questions import ask_missing, given_answers
    from toolchain.advise.rank import advise
    from toolchain.advise.rules import load_rules
    from toolchain.report.advice import advice_json, advice_text

    rules = load_rules()
    given = given_answers(args)
    asked = ask_missing(given, args.lang, skip=("device",) if args.target else ())
    case = settle_case(
        {**given, **asked},
        model=args.model,
        target=args.target,
        student=args.student,
        rules=rules,
    )
    builds, unreadable = earlier_builds(args.out)
    for path in unreadable:
        print(f"note: {path} is not of this version; its figures are left out", file=sys.stderr)
    advice = advise(case, rules, builds, args.out)
    if args.json:
        found = advice_json(advice, case, args.lang)
        print(json.dumps(found, indent=2, ensure_ascii=False))
    else:
        print(advice_text(advice, case, args.lang))
    return 0
