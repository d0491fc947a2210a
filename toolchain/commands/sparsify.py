"""`edgeforge sparsify`: zeros in a model's weights, by share or by an N:M pattern."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from toolchain.checkpoint_verbs import add_out, add_text, calibration_input, opened, print_json
from toolchain.options import add_options

if TYPE_CHECKING:
    from toolchain.artifact import Artifact

ENDING = "sparse"
HELP = "zero weights of a model: unstructured or N:M, for research and sparse runtimes"
EXAMPLES = (
    "edgeforge sparsify --model PATH_OR_HUB_ID --sparsity 0.5",
    "edgeforge sparsify --model PATH --pattern 2:4 --method wanda",
    "edgeforge sparsify --model PATH --sparsity 0.7 --schedule-steps 4",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    from toolchain.compress.sparse.settings import Sparsify
    from toolchain.settings_options import add_settings

    add_options(parser, "model")
    add_out(parser, ENDING)
    add_text(parser)
    add_settings(parser, Sparsify, "zeros")
    add_options(parser, "json", "allow_pickle", "trust_remote_code")


def run(args: argparse.Namespace) -> int:
    """Zero weights and say how many. Raises `UserError` for all that a user can mend."""
    from toolchain.compress.sparse import stage
    from toolchain.compress.sparse.settings import Sparsify
    from toolchain.pipeline import run_stage, say_on_stderr
    from toolchain.settings_options import settings_of

    settings = settings_of(args, Sparsify)
    with opened(args, ENDING) as (folder, source, workspace):
        config = stage.Config(
            text=calibration_input(args, folder, workspace),
            settings=settings,
            trust_remote_code=args.trust_remote_code,
        )
        made = run_stage(stage, source, config, workspace, say_on_stderr)
    _print_result(args, made)
    return 0


def _print_result(args: argparse.Namespace, made: Artifact) -> None:
    facts = made.measurements
    if args.json:
        print_json(made)
        return
    print(f"sparse: {made.path}")
    share, of_all = 100 * facts["zero_share"], 100 * facts["zero_share_of_all"]
    weights, dense, bitmap = (
        facts[name] / 1e6 for name in ("linear_weights", "linear_bytes", "bitmap_bytes")
    )
    print(f"  zeros: {share:.2f} % of {weights:.2f} M weights in the layers, {of_all:.2f} % of all")
    print(f"  as a bitmap and the rest they would take {bitmap:.2f} instead of {dense:.2f} MB")
    for note in facts["notes"]:
        print(f"note: {note}")
    print("next: measure it: edgeforge evaluate RESULT --against MODEL")
