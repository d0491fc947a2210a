"""`edgeforge generate`: one answer of a model of any kind, or of a bundle, to a prompt."""

from __future__ import annotations

import argparse
import json
import sys

from common.errors import UserError
from toolchain.options import GENERATION, add_model_argument, add_options

HELP = "answer one prompt with a model or a bundle of any kind"
EXAMPLES = (
    "edgeforge generate build/edgeforge-demo/laptop 'turn on the kitchen light'",
    "edgeforge generate demo 'turn on the kitchen light' --json",
    "edgeforge generate model-Q4_K_M.gguf --raw 'Once upon a time' --max-tokens 64",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_model_argument(parser)
    parser.add_argument(
        "prompt", nargs="?", metavar="PROMPT", help="the prompt (default: standard input)"
    )
    parser.add_argument(
        "--raw", action="store_true", help="go on with the text as it is, without chat template"
    )
    add_options(parser, *GENERATION, "base", "json", "trust_remote_code")


def run(args: argparse.Namespace) -> int:
    """Print the answer as it comes, or all about it with `--json`. Raises `UserError` for bad
    input."""
    from runtimes.streaming import text_pieces
    from toolchain.models import OpenModel, OpenOptions, open_model

    prompt = _prompt(args)
    options = OpenOptions(
        context_tokens=args.context,
        parallel=1,
        trust_remote_code=args.trust_remote_code,
        base=args.base,
    )

    def prompt_ids(model: OpenModel) -> list[int]:
        if args.raw:
            return model.runtime.tokenize(prompt, add_special=True)
        system = [{"role": "system", "content": args.system}] if args.system else []
        return model.prompt_ids([*system, {"role": "user", "content": prompt}])

    with open_model(args.model, options) as model:
        ids = prompt_ids(model)
        limit = min(args.max_tokens, max(1, model.context_tokens // 2))
        made: list[int] = []
        tokens = model.stream(ids, limit, temperature=args.temperature, seed=args.seed)
        if not args.json:
            for piece in text_pieces(tokens, model.runtime.detokenize):
                print(piece, end="", flush=True)
            print()
            return 0
        made.extend(tokens)
        answer = model.runtime.detokenize(made)
        facts = {"model": model.as_json(), "prompt_tokens": len(ids), "answer_tokens": len(made)}
    print(json.dumps({**facts, "answer": answer}, indent=2, ensure_ascii=False))
    return 0


def _prompt(args: argparse.Namespace) -> str:
    prompt = sys.stdin.read() if args.prompt is None else str(args.prompt)
    if not prompt.strip():
        raise UserError("the prompt is empty", "edgeforge generate MODEL 'your prompt'")
    if args.raw and args.system:
        raise UserError("--raw takes no --system", "put the text into the prompt itself")
    return prompt
