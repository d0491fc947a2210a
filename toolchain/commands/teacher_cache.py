"""`edgeforge teacher-cache`: what a teacher says of prepared data, written once."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

from common.folders import remove_folder
from common.shell import shell_line
from toolchain.checkpoint_verbs import add_data, prepared_data
from toolchain.options import add_options

if TYPE_CHECKING:
    from toolchain.compress.distill.cache.facts import Manifest
    from toolchain.compress.distill.cache.settings import TeacherCache

HELP = "write a teacher's top-k probabilities to disk, for distillation without it"
EXAMPLES = (
    "edgeforge teacher-cache --model TEACHER --data data/ --out cache/",
    "edgeforge teacher-cache --model TEACHER --student PATH --data data/ --out cache/ --top-k 64",
    "edgeforge teacher-cache --model TEACHER --data data/ --out part-1/ --part 1/4",
    "edgeforge teacher-cache --out cache/ --join part-1/ part-2/ part-3/ part-4/",
)
_WORK = ".work"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    from toolchain.compress.distill.cache.settings import TeacherCache
    from toolchain.settings_options import add_settings

    add_options(parser, "model")
    add_data(parser, required=False)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the cache's folder")
    parser.add_argument(
        "--student",
        metavar="PATH_OR_HUB_ID",
        help="checkpoint whose tokenizer makes the rows (default: the teacher)",
    )
    parser.add_argument(
        "--part",
        type=_part,
        default=(0, 1),
        metavar="I/N",
        help="write the Ith of N shares; the folders of all are joined afterwards",
    )
    parser.add_argument(
        "--join",
        type=Path,
        nargs="+",
        action="extend",
        metavar="DIR",
        help="take the parts of these folders; nothing is computed",
    )
    add_settings(parser, TeacherCache, "teacher cache")
    add_options(parser, "json", "allow_pickle", "trust_remote_code")


def run(args: argparse.Namespace) -> int:
    """Write the cache, a share of it, or join shares. Raises `UserError` for all that a user can
    mend; finished parts stay."""
    from common.errors import UserError
    from toolchain.compress.distill.cache.run import join
    from toolchain.compress.distill.cache.settings import TeacherCache
    from toolchain.settings_options import settings_of

    settings = settings_of(args, TeacherCache)
    if bool(args.join) == bool(args.data):
        raise UserError(
            "give the rows that the teacher reads, or folders to join",
            "--data DIR writes a cache, --join DIRS puts shares of one together",
        )
    made = join(args.out.absolute(), args.join) if args.join else _write(args, settings)
    _print_result(args, made)
    return 0


def _part(text: str) -> tuple[int, int]:
    """`I/N` as (which from 0, of how many)."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    share, shares = map(int, found.groups()) if found else (0, 0)
    if not 1 <= share <= shares:
        raise argparse.ArgumentTypeError(f"'{text}': give I/N with I from 1 to N, as 2/4")
    return share - 1, shares


def _write(args: argparse.Namespace, settings: TeacherCache) -> Manifest | None:
    from toolchain.checkpoint.intake import checkpoint_for_build
    from toolchain.checkpoint.locate import locate
    from toolchain.compress.distill.cache.run import write_cache
    from toolchain.compress.distill.cache.settle import settle
    from toolchain.pipeline import Workspace, say_on_stderr, writing

    trust = {"allow_pickle": args.allow_pickle, "trust_remote_code": args.trust_remote_code}
    teacher, student = (locate(name, **trust) for name in (args.model, args.student or args.model))
    out = args.out.absolute()
    workspace = Workspace(out / f"{_WORK}-{args.part[0]}")  # machines may share the folder
    with writing(workspace):
        source, _ = checkpoint_for_build(teacher, workspace, **trust)
        job = settle(
            source,
            student,
            prepared_data(args, source, workspace).path,
            settings,
            out,
            say_on_stderr,
            part=args.part,
            trust_remote_code=args.trust_remote_code,
        )
        made = write_cache(job, settings.processes, settings.accelerate_config)
    if made is not None:
        for work in out.glob(f"{_WORK}-*"):
            remove_folder(work)
    return made


def _print_result(args: argparse.Namespace, made: Manifest | None) -> None:
    from toolchain.compress.distill.cache.stage import figures

    found = None if made is None else figures(made)
    if args.json:
        print(json.dumps({"result": str(args.out.absolute()), "complete": made is not None,
                          **(found or {})}, indent=2))  # fmt: skip
        return
    if found is None:
        print(f"share {args.part[0] + 1}/{args.part[1]} is written: {args.out}")
        print("next: edgeforge teacher-cache --out CACHE --join FOLDERS OF ALL SHARES")
        return
    print(f"teacher cache: {args.out}")
    print(
        f"  {found['places']:,} places, top {found['top_k']}, {found['bytes_per_place']} bytes "
        f"each: {found['size_bytes'] / 1e6:.1f} MB in {found['parts']} parts"
    )
    words = ("--model", "STUDENT", "--teacher-cache", args.out, "--data", "DATA")
    print("next:", shell_line("edgeforge", "distill", *words))
