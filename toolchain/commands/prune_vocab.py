"""`edgeforge prune-vocab`: a checkpoint without the tokens that your text never has."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.shell import shell_line
from toolchain.checkpoint_verbs import add_out, opened, print_json
from toolchain.options import add_options

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.compress.prune_vocab.settings import Vocabulary
    from toolchain.compress.prune_vocab.stage import Config
    from toolchain.pipeline import Workspace

ENDING = "vocabulary"
HELP = "drop tokens that your text never has, and their rows of the weights"
EXAMPLES = (
    "edgeforge prune-vocab --model PATH_OR_HUB_ID --text my-data.jsonl",
    "edgeforge prune-vocab --model PATH --text a.txt,b.jsonl --multiple 256",
    "edgeforge prune-vocab --model PATH --text my-data.jsonl --dry-run",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    from toolchain.compress.prune_vocab.settings import Vocabulary
    from toolchain.settings_options import add_settings

    add_options(parser, "model")
    add_out(parser, ENDING)
    parser.add_argument(
        "--evaluation",
        type=Path,
        metavar="FILE",
        help="text on which the cost is measured (default: the model's own)",
    )
    add_settings(parser, Vocabulary, "vocabulary")
    add_options(parser, "json", "dry_run", "allow_pickle", "trust_remote_code")


def run(args: argparse.Namespace) -> int:
    """Cut, or say what would stay. Raises `UserError` for all that a user can mend."""
    from toolchain.compress.prune_vocab import stage
    from toolchain.compress.prune_vocab.settings import Vocabulary
    from toolchain.pipeline import run_stage, say_on_stderr
    from toolchain.settings_options import settings_of

    settings = settings_of(args, Vocabulary)
    with opened(args, ENDING) as (folder, source, workspace):
        config = _config(args, folder, settings, workspace)
        if args.dry_run:
            return _print_plan(args, source, config)
        made = run_stage(stage, source, config, workspace, say_on_stderr)
    _print_result(args, made)
    return 0


def _config(
    args: argparse.Namespace, folder: Path, settings: Vocabulary, workspace: Workspace
) -> Config:
    from toolchain.chain import text_file
    from toolchain.compress.prune_vocab.stage import Config
    from toolchain.compress.prune_vocab.texts import settled
    from toolchain.data.text import calibration_text, evaluation_text

    return Config(
        text=settled(settings, text_file(calibration_text(folder), workspace), folder),
        evaluation=text_file(evaluation_text(folder, args.evaluation), workspace),
        settings=settings.model_copy(update={"text": ()}),
        trust_remote_code=args.trust_remote_code,
    )


def _print_plan(args: argparse.Namespace, source: Artifact, config: Config) -> int:
    from toolchain.checkpoint.inspect import inspect
    from toolchain.compress.prune_vocab.survey import survey

    texts = [text.path for text in config.text]
    trust = config.trust_remote_code
    found = survey(inspect(source.path), texts, config.settings, trust_remote_code=trust)
    facts: dict[str, Any] = {
        "vocabulary": [source.measurements["vocab_size"], len(found.kept.ids)],
        "kept_for": dict(found.kept.why),
        "notes": list(found.notes),
    }
    if args.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
        return 0
    print("vocabulary: {} → {}".format(*facts["vocabulary"]))
    print(f"  {_reasons(facts['kept_for'])}")
    for note in found.notes:
        print(f"note: {note}")
    print("dry run: nothing was written")
    return 0


def _print_result(args: argparse.Namespace, made: Artifact) -> None:
    facts = made.measurements
    if args.json:
        print_json(made)
        return
    old, new = facts["weight_bytes_before_after"]
    print("vocabulary: {} → {} tokens".format(*facts["vocabulary"]))
    print(f"  {_reasons(facts['kept_for'])}")
    print(f"  weights {old / 1e6:.2f} → {new / 1e6:.2f} MB ({100 * (new / old - 1):+.1f} %)")
    tokens, logits, cost = facts["tokens"], facts["logits"], facts["held_out"]
    print(f"  {tokens['documents_equal']} documents have equal tokens, "
          f"{tokens['documents_changed']} other ones")  # fmt: skip
    if logits:
        print(f"  logits agree to {logits['max_abs_diff']:.2g} (limit {logits['limit']:.2g})")
    if cost and cost["tokens_before"]:
        print(f"  text held out: {100 * cost['share_gone']:.2f} % of its tokens are gone, "
              f"{cost['tokens_before']} → {cost['tokens_after']} tokens")  # fmt: skip
    for note in facts["notes"]:
        print(f"note: {note}")
    print(f"result: {made.path}")
    print("next:", shell_line("edgeforge", "build", "--target", "NAME", "--model", made.path))


def _reasons(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {reason}" for reason, count in counts.items() if count)
