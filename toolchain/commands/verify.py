"""`edgeforge verify`: is the bundle whole, consistent and signed; nothing of it is run."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError
from toolchain.options import add_options

if TYPE_CHECKING:
    from toolchain.trust.signing import KeyPair, Sigstore
    from toolchain.trust.verify import Checked

HELP = "check a bundle's files, manifest and signature; nothing of it is loaded"
EXAMPLES = (
    "edgeforge verify build/edgeforge-demo/laptop",
    "edgeforge verify demo-laptop.tar --key signer.pub --json",
)
_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="folder or packed file")
    parser.add_argument(
        "--key", type=Path, metavar="PUBLIC_KEY", help="must be signed by the owner of this key"
    )
    parser.add_argument(
        "--identity",
        metavar="WHO",
        help="must be signed by this identity through Sigstore (with --issuer; needs a network; "
        "not tried against the real service)",
    )
    parser.add_argument("--issuer", metavar="URL", help="which service vouches for the identity")
    add_options(parser, "json")


def run(args: argparse.Namespace) -> int:
    """Print what was checked; 0 when all is well, 1 when something is wrong with the bundle."""
    from toolchain.trust.verify import verify

    checked = verify(args.bundle, _signer(args))
    sound = not any(check.faults for check in checked)
    if args.json:
        result = {"sound": sound, "checks": [check.as_json() for check in checked]}
        print(json.dumps(result, indent=2, ensure_ascii=False))
    else:
        print("\n".join(_lines(checked)))
        print(f"{args.bundle}: {'sound' if sound else 'NOT to be trusted'}")
    return 0 if sound else _FAILED


def _signer(args: argparse.Namespace) -> KeyPair | Sigstore | None:
    from toolchain.trust.signing import KeyPair, Sigstore

    if bool(args.identity) != bool(args.issuer):
        raise UserError("--identity and --issuer belong together", "give both")
    if args.key and args.identity:
        raise UserError("--key and --identity are both given", "a bundle has one signature")
    if args.key:
        return KeyPair(args.key)
    return Sigstore(args.identity, args.issuer) if args.identity else None


def _lines(checked: list[Checked]) -> list[str]:
    lines = []
    for check in checked:
        lines.append(f"  {check.name:<10} {'FAILED' if check.faults else 'ok':<7} {check.note}")
        lines += [f"    - {fault}" for fault in check.faults]
    return lines
