"""`edgeforge finetune`: train an adapter, or all weights, on your data."""

from __future__ import annotations

import argparse
import json
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.scratch import ScratchFolder
from common.shell import shell_line
from toolchain.checkpoint_verbs import add_data, prepared_data
from toolchain.options import add_options

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.pipeline import Workspace
    from toolchain.train.finetune import Config

HELP = "train a LoRA adapter, or all weights, on your data"
EXAMPLES = (
    "edgeforge finetune --model PATH_OR_HUB_ID --data chats.jsonl",
    "edgeforge finetune --model PATH --data data/ --rank 16 --epochs 5 --packing",
    "edgeforge finetune --model PATH --data faq.csv --quantization nf4 --dry-run",
    "edgeforge finetune --model BERT --data reviews.csv --method full --epochs 3",
    "edgeforge finetune --model PATH --data data/ --settings finetune.yaml --json",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    from toolchain.settings_options import add_settings
    from toolchain.train.settings import Finetune

    add_options(parser, "model")
    add_data(parser)
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build"),
        metavar="DIR",
        help="the result lies in DIR/<model>-<data>/ (default: build)",
    )
    add_settings(parser, Finetune, "training")
    add_options(parser, "json", "dry_run", "allow_pickle", "trust_remote_code")


def run(args: argparse.Namespace) -> int:
    """Train, or say what would be trained. Raises `UserError` for all that a user can mend."""
    from toolchain.checkpoint.locate import locate, model_name
    from toolchain.pipeline import Workspace
    from toolchain.settings_options import settings_of
    from toolchain.train.finetune import Config
    from toolchain.train.settings import Finetune

    settings = settings_of(args, Finetune)
    trust = {"allow_pickle": args.allow_pickle, "trust_remote_code": args.trust_remote_code}
    folder = locate(args.model, **trust)
    out = args.out.absolute()
    final = out / f"{model_name(args.model)}-{model_name(_without_suffix(args.data[0]))}"
    with ExitStack() as stack:
        root = out / model_name(args.model)
        if args.dry_run:
            root = Path(stack.enter_context(ScratchFolder("dry-run")))
        workspace = Workspace(root)
        source = _source(folder, workspace, args)
        data = prepared_data(args, source, workspace)
        config = Config(data=data, settings=settings, trust_remote_code=args.trust_remote_code)
        if args.dry_run:
            return _print_outline(args, source, config, workspace, final)
        made, up_to_date = _train(source, config, workspace, final)
    _print_result(args, made, up_to_date)
    return 0


def _without_suffix(path: Path) -> str:
    return str(path.expanduser().absolute() if path.is_dir() else path.with_suffix(""))


def _source(folder: Path, workspace: Workspace, args: argparse.Namespace) -> Artifact:
    from toolchain.checkpoint.intake import checkpoint_for_build

    source, _ = checkpoint_for_build(
        folder,
        workspace,
        allow_pickle=args.allow_pickle,
        trust_remote_code=args.trust_remote_code,
    )
    return source


def _train(
    source: Artifact, config: Config, workspace: Workspace, final: Path
) -> tuple[Artifact, bool]:
    """The result in its place, and whether it was there already."""
    from common.errors import UserError
    from common.files import clear_leftovers, replace_folder
    from toolchain import artifact as artifacts
    from toolchain.pipeline import run_stage, stage_versions, writing
    from toolchain.train import finetune

    with writing(workspace):
        clear_leftovers(final)
        if (final / artifacts.MANIFEST).is_file():
            there = artifacts.load(final)
            same = there.parents == (source.digest, config.data.digest)
            same = same and there.config == config.model_dump(mode="json")
            if same and there.versions == stage_versions(finetune) and not there.damaged_files():
                return there, True
        elif final.exists():
            raise UserError(
                f"{final} exists and is no result of training", "remove it, or choose another --out"
            )
        made = run_stage(finetune, source, config, workspace, _say)
        replace_folder(made.path, final)
    return artifacts.load(final), False


def _print_outline(
    args: argparse.Namespace, source: Artifact, config: Config, workspace: Workspace, final: Path
) -> int:
    from toolchain.train.outline import outline

    folder = workspace.root / "encoded"
    folder.mkdir()
    trust = config.trust_remote_code
    plan = outline(source, config.data.path, config.settings, folder, trust_remote_code=trust)
    if args.json:
        print(json.dumps({"out": str(final), **plan.as_json()}, indent=2, ensure_ascii=False))
    else:
        print("\n".join(plan.lines(config.settings)))
        print(f"dry run: nothing was written; the result would lie in {final}")
    return 0


def _print_result(args: argparse.Namespace, made: Artifact, up_to_date: bool) -> None:
    facts: dict[str, Any] = dict(made.measurements)
    if args.json:
        head = {"result": str(made.path), "format": made.format, "digest": made.digest}
        print(json.dumps({**head, "up_to_date": up_to_date, **facts}, indent=2, ensure_ascii=False))
        return
    print(f"{'up to date' if up_to_date else 'trained'}: {made.path} ({made.format})")
    print(
        f"  {facts['steps']} steps, training loss {facts['first_train_loss']:.4f} → "
        f"{facts['final_train_loss']:.4f}"
    )
    if facts["validation_loss"] is not None:
        said = f"  validation loss {facts['validation_loss']:.4f} at step {facts['kept_step']}"
        if facts["validation_accuracy"] is not None:
            said += f", accuracy {facts['validation_accuracy']:.4f}"
            said += f", macro F1 {facts['validation_macro_f1']:.4f}"
        print(said + (", ended early" if facts["early_stopped"] else ""))
    if made.format == "adapter" and facts["kind"] == "causal":
        pair = ("--model", args.model, "--adapter", made.path)
        print("next:", shell_line("edgeforge", "merge", *pair))


def _say(line: str) -> None:
    from toolchain.pipeline import say_on_stderr

    say_on_stderr(line)
