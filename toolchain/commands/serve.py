"""`edgeforge serve`: an OpenAI-compatible server for a bundle, or any other model."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from common.errors import UserError
from toolchain.options import add_model_argument, add_options, count

if TYPE_CHECKING:
    from collections.abc import Callable

    from toolchain.models import OpenOptions
    from toolchain.serve.service import Service

HELP = "serve a bundle on this machine with OpenAI's API"
EXAMPLES = (
    "edgeforge serve build/edgeforge-demo/laptop",
    "edgeforge serve build/edgeforge-demo/laptop --port 0 --threads 2",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_model_argument(parser)
    parser.add_argument(
        "--port", type=_port, default=8080, metavar="N", help="default: 8080; 0 is any free one"
    )
    parser.add_argument(
        "--host", default="127.0.0.1", metavar="ADDRESS", help="default: 127.0.0.1, this machine"
    )
    parser.add_argument(
        "--threads", type=count, metavar="N", help="default: the bundle's, at most the idle cores"
    )
    parser.add_argument(
        "--context", type=count, metavar="N", help="tokens (default: the bundle's; else 4096)"
    )
    add_options(parser, "base", "trust_remote_code")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM. Raises `UserError` when the model does not open, it is of a
    kind that is not served, or the port is taken."""
    from toolchain.models import OpenOptions
    from toolchain.serve.server import address_of, serve, warning

    family, host, port = address_of(args.host, args.port)
    if text := warning(host):
        print(text, file=sys.stderr)
    options = OpenOptions(
        context_tokens=args.context or 4096,
        parallel=1,
        trust_remote_code=args.trust_remote_code,
        base=args.base,
        threads=args.threads,
        as_shipped=args.context is None,
    )
    close, service = _service(args.model, options)
    try:
        serve(service, family, host, port, lambda line: print(line, flush=True))
    finally:
        close()
    return 0


def _service(model: str, options: OpenOptions) -> tuple[Callable[[], None], Service]:
    from toolchain.encoders import EMBEDDING, encoder_task, open_embedder
    from toolchain.models import open_model
    from toolchain.serve.decoder import DecoderService
    from toolchain.serve.embedder import EmbedderService

    task = encoder_task(model, options)
    if task == EMBEDDING:
        embedder = open_embedder(model, options)
        return embedder.close, EmbedderService(embedder)
    if task is not None:
        raise UserError(
            f"{model} is for {task}, which OpenAI's API does not have",
            "edgeforge classify MODEL 'your text' asks it",
        )
    opened = open_model(model, options)
    return opened.close, DecoderService(opened)


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"'{text}' is no port between 0 and 65535")
    return int(text)
