"""`edgeforge bundle`: a finished bundle as one file, and back."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.errors import UserError
from toolchain.options import count

HELP = "pack a finished bundle into one file, or unpack one"
EXAMPLES = (
    "edgeforge bundle pack build/edgeforge-demo/laptop",
    "edgeforge bundle pack build/edgeforge-demo/laptop --to demo.tar",
    "edgeforge bundle unpack demo.tar --to demo",
)
_GB = 10**9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The two things to do, each with its options."""
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    pack = commands.add_parser("pack", help="one tar file, always the same bytes")
    pack.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    pack.add_argument(
        "--to", type=Path, metavar="FILE", help="default: <model>-<target>.tar in this folder"
    )
    unpack = commands.add_parser("unpack", help="check a packed file and lay the bundle down")
    unpack.add_argument("file", type=Path, metavar="FILE", help="what `bundle pack` made")
    unpack.add_argument(
        "--to", type=Path, metavar="DIR", help="default: <model>-<target> in this folder"
    )
    unpack.add_argument(
        "--max-gb", type=count, default=1000, metavar="N", help="refuse more than this (1000)"
    )


def run(args: argparse.Namespace) -> int:
    """Pack or unpack. Raises `UserError` for a damaged bundle or a file that is refused."""
    from toolchain.trust.pack import SUFFIX, pack, packed_name, unpack

    if args.command == "unpack":
        folder = unpack(args.file, args.to, args.max_gb * _GB)
        print(f"bundle: {folder} (every file as SHA256SUMS says)")
        return 0
    if not args.bundle.is_dir():
        raise UserError(f"there is no bundle in {args.bundle}", "build it first, or check the path")
    file = pack(args.bundle, args.to or Path(f"{packed_name(args.bundle)}{SUFFIX}"))
    print(f"packed: {file} ({file.stat().st_size / 1e6:.1f} MB)")
    return 0
