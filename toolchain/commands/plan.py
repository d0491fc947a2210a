"""`edgeforge plan`: sizes, memory and speed of a model on a target, before anything is done."""

from __future__ import annotations

import argparse
import json

from common.errors import UserError
from toolchain.options import MAKE_VARIABLES, add_options

HELP = "what a build would do: sizes, memory, expected speed; writes nothing"
EXAMPLES = (
    "edgeforge plan --target jetson",
    "edgeforge plan --target raspberry-pi-5 --model PATH_OR_HUB_ID --quantization Q4_K_M",
    "edgeforge plan --target laptop --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of the verb."""
    add_options(parser, *MAKE_VARIABLES, "json", "trust_remote_code")


def run(args: argparse.Namespace) -> int:
    """Print the plan. Raises `UserError` for bad input, and when nothing fits the target."""
    from targets.registry import load_target
    from toolchain.backend import choose_backend
    from toolchain.checkpoint.inspect import inspect
    from toolchain.checkpoint.locate import locate
    from toolchain.checkpoint.validate import validate
    from toolchain.compress.distill.ahead import fresh_info
    from toolchain.job import plan_for, run_by
    from toolchain.plan_report import plan_json, plan_text
    from toolchain.recipe import load_recipe

    recipe = load_recipe(args.recipe, args.data)
    target = run_by(recipe, load_target(args.target))
    export = recipe.export
    info = inspect(locate(args.model, trust_remote_code=args.trust_remote_code))
    validate(info, trust_remote_code=args.trust_remote_code, deep=False)
    wanted = args.quantization or export.quantization
    backend, quantization = choose_backend(export.format, wanted, target, info)
    if recipe.distill.teacher is None:  # a student that will be made is what is exported
        info = fresh_info(recipe, info) or info
    found = plan_for(info, target, recipe, backend, quantization)
    if args.json:
        print(json.dumps(plan_json(found, target, recipe), indent=2, ensure_ascii=False))
    else:
        print(plan_text(found, target, recipe))
    if not found.order:
        raise UserError(
            f"{info.name} does not fit {target.name} in any type tried",
            "take a smaller model, a smaller type (--quantization), or a larger target",
        )
    return 0
