"""`edgeforge chat`: talk to a model of any kind in the terminal or through a pipe."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable

from common.errors import UserError
from toolchain.options import GENERATION, add_model_argument, add_options

HELP = "talk to a model: answers as they come, /system, /reset, /help, /exit"
EXAMPLES = (
    "edgeforge chat demo",
    "edgeforge chat build/edgeforge-demo/laptop --system 'Answer in JSON.'",
    "echo 'turn on the kitchen light' | edgeforge chat model-Q4_K_M.gguf > answer.txt",
)
PROMPT = "> "


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_model_argument(parser)
    add_options(parser, *GENERATION, "base", "trust_remote_code")


def run(args: argparse.Namespace) -> int:
    """Talk until the input ends. Raises `UserError` when the model does not open."""
    from toolchain.chat import Chat
    from toolchain.models import OpenOptions, open_model

    options = OpenOptions(
        context_tokens=args.context,
        parallel=1,
        trust_remote_code=args.trust_remote_code,
        base=args.base,
    )
    with open_model(args.model, options) as model:
        chat = Chat(
            model,
            out=sys.stdout,
            notes=sys.stderr,
            max_tokens=min(args.max_tokens, max(1, model.context_tokens // 2)),
            temperature=args.temperature,
            seed=args.seed,
            system=args.system,
        )
        if sys.stdin.isatty():
            print(f"{model.name} ({model.kind}); /help lists commands", file=sys.stderr)
        chat.run(_reader())
    return 0


def _reader() -> Callable[[], str | None]:
    """Lines of standard input, with a prompt on stderr where a person types; None at the end."""
    typed = sys.stdin.isatty()

    def read_line() -> str | None:
        while True:
            if typed:
                print(PROMPT, end="", file=sys.stderr, flush=True)
            try:
                line = sys.stdin.readline()
            except KeyboardInterrupt:
                if not typed:
                    raise
                print("\n/exit or Ctrl-D ends", file=sys.stderr)
                continue
            except UnicodeDecodeError as error:
                raise UserError(
                    f"the input is no UTF-8 text: {error}", "send text as UTF-8"
                ) from None
            if not line:
                return None
            return line.encode("utf-8", "replace").decode("utf-8")

    return read_line
