"""Options that several verbs share, defined once: names, defaults, help.

The Makefile's variables have the same names. Nothing heavy is imported here: `edgeforge --help` is
answered from this module and the verbs' own few lines.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from toolchain.report.strings import LANGUAGES

DEMO_MODEL = "demo"


def count(text: str) -> int:
    """A whole number above 0, as a type of argparse."""
    number = int(text) if text.isdecimal() else 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"'{text}' is no whole number above 0")
    return number


def temperature(text: str) -> float:
    """A sampling temperature, as a type of argparse."""
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value <= 100:
        raise argparse.ArgumentTypeError(f"'{text}' is no temperature between 0 and 100")
    return value


def folder(text: str) -> Path:
    """A folder that is there or can be made, as a type of argparse."""
    path = Path(text)
    for above in (path, *path.parents):
        if above.is_symlink() or above.exists():
            if not above.is_dir():
                raise argparse.ArgumentTypeError(f"{above} is no folder")
            break
    return path


_OPTIONS: dict[str, tuple[str, dict[str, Any]]] = {
    "target": (
        "--target",
        {
            "required": True,
            "metavar": "NAME",
            "help": "device: a name of `targets list`, or a file",
        },
    ),
    "model": (
        "--model",
        {
            "default": DEMO_MODEL,
            "metavar": "PATH_OR_HUB_ID",
            "help": "checkpoint: a folder or a hub id (default: the embedded demo model)",
        },
    ),
    "recipe": (
        "--recipe",
        {"metavar": "NAME_OR_FILE", "help": "which stages run, and how (default: export)"},
    ),
    "data": (
        "--data",
        {
            "type": Path,
            "action": "append",
            "default": [],
            "metavar": "FILE",
            "help": "training data for a recipe that trains; can be repeated",
        },
    ),
    "quantization": (
        "--quantization",
        {
            "metavar": "TYPE",
            "help": "a llama.cpp type (Q4_K_M), or auto (default: the recipe's)",
        },
    ),
    "out": (
        "--out",
        {
            "type": folder,
            "default": Path("build"),
            "metavar": "DIR",
            "help": "where results go; the bundle lies in DIR/<model>/<target>/ (default: build)",
        },
    ),
    "host": (
        "--host",
        {"metavar": "USER@HOST", "help": "run on this device instead of this machine"},
    ),
    "system": ("--system", {"metavar": "TEXT", "help": "system message"}),
    "max_tokens": (
        "--max-tokens",
        {
            "type": count,
            "default": 256,
            "metavar": "N",
            "help": "longest answer (default: 256, at most half the context)",
        },
    ),
    "temperature": (
        "--temperature",
        {
            "type": temperature,
            "default": 0.0,
            "metavar": "T",
            "help": "0 takes the likeliest token, more draws (default: 0)",
        },
    ),
    "seed": ("--seed", {"type": int, "metavar": "N", "help": "draw the same way again"}),
    "context": (
        "--context",
        {
            "type": count,
            "default": 4096,
            "metavar": "N",
            "help": "context in tokens (default: 4096, at most the model's)",
        },
    ),
    "base": (
        "--base",
        {
            "type": Path,
            "metavar": "FOLDER_OR_HUB_ID",
            "help": "an adapter's base (default: what its adapter_config.json names)",
        },
    ),
    "map": (
        "--map",
        {
            "action": "append",
            "default": [],
            "metavar": "COLUMN=NAME",
            "help": "the file's NAME for a format's COLUMN (label=rating); can be repeated",
        },
    ),
    "lang": (
        "--lang",
        {
            "choices": LANGUAGES,
            "default": LANGUAGES[0],
            "help": f"language of the answer (default: {LANGUAGES[0]})",
        },
    ),
    "json": ("--json", {"action": "store_true", "help": "machine-readable result on stdout"}),
    "dry_run": (
        "--dry-run",
        {"action": "store_true", "help": "say what would be done and write nothing"},
    ),
    "allow_pickle": (
        "--allow-pickle",
        {
            "action": "store_true",
            "help": "accept pickle weights (*.bin), read without code",
        },
    ),
    "trust_remote_code": (
        "--trust-remote-code",
        {"action": "store_true", "help": "run Python code that the checkpoint brings along"},
    ),
}


# How an answer is made.
GENERATION = ("system", "max_tokens", "temperature", "seed", "context")
# The variables of every verb of the Makefile; each verb takes them all and uses what it needs.
MAKE_VARIABLES = ("target", "model", "recipe", "data", "quantization", "out", "host")


def add_options(parser: argparse.ArgumentParser, *names: str, optional: Sequence[str] = ()) -> None:
    """Add shared options by name, in the order given. `optional` need not be given in this verb."""
    for name in names:
        flag, settings = _OPTIONS[name]
        if name in optional:
            settings = {key: value for key, value in settings.items() if key != "required"}
        parser.add_argument(flag, **settings)


def add_model_argument(parser: argparse.ArgumentParser) -> None:
    """MODEL as the verb's first word: any kind that `toolchain.models` opens."""
    parser.add_argument(
        "model",
        nargs="?",
        default=DEMO_MODEL,
        metavar="MODEL",
        help="checkpoint folder, hub id, adapter folder, .gguf file or bundle (default: demo)",
    )


def model_folder(args: argparse.Namespace) -> Path:
    """OUT/<model>: bundles of every target, and the finished stages they share. A recipe that
    changes the model has a folder of its own."""
    from toolchain.recipe import built_name, read_recipe

    return Path(args.out) / built_name(args.model, read_recipe(args.recipe))


def bundle_folder(args: argparse.Namespace) -> Path:
    """OUT/<model>/<target>/, with the target's own name also when an alias was given."""
    from targets.registry import load_target

    return model_folder(args) / load_target(args.target).name
