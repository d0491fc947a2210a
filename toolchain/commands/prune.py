"""`edgeforge prune`: a smaller checkpoint of the same architecture, or a sweep over ratios."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from common.shell import shell_line
from toolchain.checkpoint_verbs import add_out, add_text, calibration_input, opened, print_json
from toolchain.options import add_options

if TYPE_CHECKING:
    from targets.schema import Target
    from toolchain.artifact import Artifact
    from toolchain.compress.prune.candidates import Choices
    from toolchain.compress.prune.settings import Prune
    from toolchain.compress.prune.shape import Shape
    from toolchain.compress.prune.stage import Config
    from toolchain.pipeline import Workspace

ENDING = "pruned"
HELP = "cut heads, FFN channels, layers or width out of a model"
EXAMPLES = (
    "edgeforge prune --model PATH_OR_HUB_ID --ratio 0.2",
    "edgeforge prune --model PATH --parameters 900000000 --axes ffn,layers",
    "edgeforge prune --model PATH --decode-speedup 1.2 --target jetson",
    "edgeforge prune --model PATH --sweep 0.1,0.2,0.3,0.4,0.5",
    "edgeforge prune --model PATH --ratio 0.3 --dry-run",
)

_WHERE = {"expected": "expected on {target}", "measured": "measured on this machine"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    from toolchain.compress.prune.settings import Prune
    from toolchain.settings_options import add_settings

    add_options(parser, "model")
    add_out(parser, ENDING)
    add_text(parser)
    parser.add_argument(
        "--sweep",
        type=_ratios,
        metavar="RATIOS",
        help="measure these ratios (0.1,0.2,0.3), mark the cliff, write the recipe for the best",
    )
    add_options(parser, "target", optional=("target",))
    add_settings(parser, Prune, "pruning")
    add_options(parser, "json", "dry_run", "allow_pickle", "trust_remote_code")


def run(args: argparse.Namespace) -> int:
    """Prune, sweep, or say what would be cut. Raises `UserError` for all that a user can mend."""
    from targets.registry import load_target
    from toolchain.compress.prune.settings import Prune
    from toolchain.compress.prune.stage import Config
    from toolchain.settings_options import settings_of

    settings = settings_of(args, Prune)
    with opened(args, ENDING) as (folder, source, workspace):
        text = calibration_input(args, folder, workspace)
        target = load_target(args.target) if args.target and settings.aims_at_speed else None
        config = Config(
            text=text,
            target=target.model_dump(mode="json") if target else None,
            settings=settings,
            trust_remote_code=args.trust_remote_code,
        )
        if args.dry_run:
            return _print_plan(args, source, settings, target)
        if args.sweep:
            return _sweep(args, source, config, workspace)
        made = _prune(source, config, workspace)
    _print_result(args, made)
    return 0


def _ratios(text: str) -> tuple[float, ...]:
    from toolchain.compress.prune.settings import MOST

    try:
        found = tuple(sorted({float(part) for part in text.split(",")}))
    except ValueError:
        found = ()
    if not found or found[0] <= 0 or found[-1] > MOST:
        raise argparse.ArgumentTypeError(
            f"'{text}': give ratios above 0 and up to {MOST}, as 0.1,0.2"
        )
    return found


def _prune(source: Artifact, config: Config, workspace: Workspace) -> Artifact:
    from toolchain.compress.prune import stage
    from toolchain.pipeline import run_stage, say_on_stderr

    return run_stage(stage, source, config, workspace, say_on_stderr)


def _sweep(args: argparse.Namespace, source: Artifact, config: Config, workspace: Workspace) -> int:
    from toolchain.compress.prune.sweep import sweep
    from toolchain.pipeline import say_on_stderr

    found = sweep(source, config, args.sweep, workspace, say_on_stderr)
    if args.json:
        print(json.dumps(found.as_json(), indent=2, ensure_ascii=False))
    else:
        print(found.table())
        print(f"curve: {found.curve}\nrecipe: {found.recipe}")
        pair = ("--model", args.model, "--recipe", found.recipe)
        print("next:", shell_line("edgeforge", "build", "--target", "NAME", *pair))
    return 0


def _print_plan(
    args: argparse.Namespace, source: Artifact, settings: Prune, target: Target | None
) -> int:
    from toolchain.checkpoint.inspect import inspect
    from toolchain.compress.prune.candidates import find_candidates
    from toolchain.compress.prune.layout import find_layout

    info = inspect(source.path)
    found = find_candidates(info, find_layout(info), settings, target)
    if args.json:
        rows = [{"shape": c.shape.text(), "parameters": c.parameters, "ratio": c.ratio,
                 "width_step": c.step, **_expected(found, c.shape)}
                for c in found.found]  # fmt: skip
        print(json.dumps({"original": found.original.text(), "parameters": found.parameters,
                          "aim": found.aim.text, "shapes": rows,
                          "notes": list(found.notes)}, indent=2))  # fmt: skip
        return 0
    print(f"{found.original.text()}: {found.parameters / 1e6:.2f} M parameters")
    print(f"{len(found.found)} legal shapes for {found.aim.text}:")
    aim = found.aim
    for candidate in sorted(found.found, key=lambda c: aim.distance(c.shape))[:10]:
        speed = _expected(found, candidate.shape).get("decode_tokens_per_sec")
        more = f"  {speed:.1f} tokens/s" if speed else ""
        print(f"  {100 * candidate.ratio:5.2f} %  {candidate.shape.text()}{more}")
    for note in found.notes:
        print(f"note: {note}")
    print("dry run: nothing was written; scores and measurements choose among these shapes")
    return 0


def _expected(found: Choices, shape: Shape) -> dict[str, float]:
    return {"decode_tokens_per_sec": round(1 / found.sec(shape), 3)} if found.sec else {}


def _print_result(args: argparse.Namespace, made: Artifact) -> None:
    facts = made.measurements
    if args.json:
        print_json(made)
        return
    print(f"pruned: {made.path}")
    print(f"  {facts['parameters_before'] / 1e6:.2f} → {facts['parameters_after'] / 1e6:.2f} M "
          f"parameters ({100 * facts['ratio']:.1f} % removed)")  # fmt: skip
    print(f"  {facts['shape_before']}\n  → {facts['shape']}")
    if decode := facts["decode"]:
        print("  decode: " + "; ".join(_speedup(decode, where) for where in _WHERE if
              decode[f"{where}_tokens_per_sec"]))  # fmt: skip
    for note in facts["notes"]:
        print(f"note: {note}")
    print("next: measure it (edgeforge evaluate RESULT --against MODEL), or build it: "
          "recipe prune-lora trains the loss back")  # fmt: skip


def _speedup(decode: dict[str, Any], where: str) -> str:
    before, after = decode[f"{where}_tokens_per_sec"]
    return f"{before:.1f} → {after:.1f} tokens/s ({after / before:.2f}x) {_WHERE[where]}".format(
        **decode
    )
