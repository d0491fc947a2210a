"""`edgeforge classify`: what a classifier says of texts; also names found by a token classifier,
and the nearness of texts by an embedding model."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from toolchain.options import add_options, count

if TYPE_CHECKING:
    from runtimes.protocol import Text

HELP = "label texts with a classifier, a token classifier or an embedding model"
EXAMPLES = (
    "edgeforge classify MODEL 'a wonderful film' 'a waste of time'",
    "edgeforge classify MODEL --file reviews.csv --json > labels.json",
    "edgeforge classify ADAPTER 'a wonderful film' --base FOLDER --top 3",
)
_SHOWN_CHARACTERS = 80


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    parser.add_argument("model", metavar="MODEL", help="folder, hub id, adapter folder or bundle")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="default: lines of standard input")
    parser.add_argument(
        "--file",
        type=Path,
        metavar="FILE",
        help="rows with text, perhaps text_pair (.jsonl, .csv, …), or a text on each line",
    )
    parser.add_argument("--pair", metavar="TEXT", help="second text, read together with each TEXT")
    parser.add_argument(
        "--top", type=count, default=1, metavar="N", help="show the N likeliest (default: 1)"
    )
    add_options(parser, "base", "json", "trust_remote_code")


def run(args: argparse.Namespace) -> int:
    """Print one line a text. Raises `UserError` for bad input."""
    from toolchain.encoders import EMBEDDING, open_encoder
    from toolchain.evaluate.read_texts import answers
    from toolchain.models import OpenOptions

    texts = _texts(args)
    options = OpenOptions(
        context_tokens=1 << 20, trust_remote_code=args.trust_remote_code, base=args.base
    )
    with open_encoder(args.model, options) as model:
        rows = answers(model, texts, args.top)
        facts, task = model.as_json(), model.task
    if args.json:
        print(json.dumps({"model": facts, "texts": rows}, indent=2, ensure_ascii=False))
    elif task == EMBEDDING:
        print("\n".join(_nearness(rows)))
    else:
        print("\n".join(map(_line, rows)))
    return 0


def _texts(args: argparse.Namespace) -> list[Text]:
    from toolchain.evaluate.read_texts import file_texts

    if args.file and (args.texts or args.pair):
        raise UserError("--file and texts are both given", "give one of them")
    if args.file:
        return file_texts(args.file)
    plain = args.texts or [line.rstrip("\n") for line in sys.stdin if line.strip()]
    if not plain or not all(text.strip() for text in plain):
        raise UserError("there is no text", "edgeforge classify MODEL 'your text'")
    return [(text, args.pair) for text in plain] if args.pair else list(plain)


def _line(row: dict[str, Any]) -> str:
    if "mentions" in row:
        named = [f"{m['text']} ({m['label']} {m['probability']:.3f})" for m in row["mentions"]]
        return f"{_short(row)}\n    {', '.join(named) or 'nothing found'}"
    labels = "  ".join(f"{one['label']} {one['probability']:.4f}" for one in row["labels"])
    return f"{labels}  {_short(row)}"


def _nearness(rows: list[dict[str, Any]]) -> list[str]:
    """Cosine of every text's vector to that of the first."""
    import numpy as np

    vectors = np.asarray([row["vector"] for row in rows])
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
    cosines = vectors @ vectors[0]
    lines = [f"{cosine:.4f}  {_short(row)}" for cosine, row in zip(cosines, rows, strict=True)]
    return ["cosine to the first text (the vectors: --json)", *lines]


def _short(row: dict[str, Any]) -> str:
    text = " ".join(f"{row['text']} {row.get('text_pair', '')}".split())
    return text if len(text) <= _SHOWN_CHARACTERS else f"{text[: _SHOWN_CHARACTERS - 1]}…"
