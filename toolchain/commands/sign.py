"""`edgeforge sign`: put a signature into a finished bundle."""

from __future__ import annotations

import argparse
from pathlib import Path

from common.errors import UserError

HELP = "sign a finished bundle, so that others can tell that it is yours"
EXAMPLES = (
    "edgeforge sign build/edgeforge-demo/laptop --key signer.pem",
    "edgeforge sign build/edgeforge-demo/laptop --sigstore",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="the bundle's folder")
    parser.add_argument(
        "--key",
        type=Path,
        metavar="PRIVATE_KEY",
        help="elliptic-curve key in PEM form; its password, if any, is in EDGEFORGE_KEY_PASSWORD",
    )
    parser.add_argument(
        "--sigstore",
        action="store_true",
        help="sign with your identity through Sigstore (needs a network; not tried against the "
        "real service)",
    )


def run(args: argparse.Namespace) -> int:
    """Write `model.sig` into the bundle. Raises `UserError` when that cannot be done."""
    from toolchain.trust.signing import KeyPair, Sigstore, sign

    if bool(args.key) == args.sigstore:
        raise UserError("with what is the bundle to be signed?", "give --key FILE, or --sigstore")
    if not args.bundle.is_dir():
        raise UserError(f"{args.bundle} is no folder", "sign the bundle before it is packed")
    signature = sign(args.bundle, Sigstore() if args.sigstore else KeyPair(args.key))
    print(f"signed: {signature}")
    return 0
