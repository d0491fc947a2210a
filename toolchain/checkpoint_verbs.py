"""What the verbs share that make one checkpoint of another (prune, sparsify, finetune, distill).

with opened(args, "pruned") as (folder, source, workspace): ...
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from common.scratch import ScratchFolder

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.pipeline import Workspace
    from toolchain.stage import Input


def add_out(parser: argparse.ArgumentParser, ending: str) -> None:
    """`--out`, under which the result lies in `<model>-<ending>`."""
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build"),
        metavar="DIR",
        help=f"the result lies in DIR/<model>-{ending}/ (default: build)",
    )


def add_text(parser: argparse.ArgumentParser) -> None:
    """`--text`, the calibration text."""
    parser.add_argument(
        "--text", type=Path, metavar="FILE", help="calibration text (default: the model's own)"
    )


def add_data(parser: argparse.ArgumentParser, *, required: bool = True) -> None:
    """`--data`, what is trained on."""
    parser.add_argument(
        "--data",
        type=Path,
        nargs="+",
        action="extend",
        required=required,
        metavar="PATH",
        help="a folder of `edgeforge data prepare`, or data files as it takes them",
    )


def prepared_data(args: argparse.Namespace, source: Artifact, workspace: Workspace) -> Input:
    """The prepared folder that was given, or the files prepared as `edgeforge data prepare` does
    it, once for the same content."""
    from common.errors import UserError
    from toolchain.data.prepare import stage as prepare
    from toolchain.pipeline import run_stage, say_on_stderr
    from toolchain.stage import Input

    paths = [path.expanduser().absolute() for path in args.data]
    for path in paths:
        if not path.exists():
            raise UserError(f"data {path} does not exist", "check the path of --data")
    config = prepare.Config(
        files=tuple(map(prepare.data_input, paths)), trust_remote_code=args.trust_remote_code
    )
    return Input.of_artifact(run_stage(prepare, source, config, workspace, say_on_stderr))


def calibration_input(args: argparse.Namespace, folder: Path, workspace: Workspace) -> Input:
    """The text of `--text`, or the model's own."""
    from toolchain.chain import text_file
    from toolchain.data.text import calibration_text

    return text_file(calibration_text(folder, args.text), workspace)


@contextmanager
def opened(args: argparse.Namespace, ending: str) -> Iterator[tuple[Path, Artifact, Workspace]]:
    """The model's folder, its checkpoint and the workspace; with `--dry-run` one that goes
    again."""
    from toolchain.checkpoint.intake import checkpoint_for_build
    from toolchain.checkpoint.locate import locate, model_name
    from toolchain.pipeline import Workspace, writing

    trust = {"allow_pickle": args.allow_pickle, "trust_remote_code": args.trust_remote_code}
    folder = locate(args.model, **trust)
    with ExitStack() as stack:
        root = args.out.absolute() / f"{model_name(args.model)}-{ending}"
        if getattr(args, "dry_run", False):
            root = Path(stack.enter_context(ScratchFolder("dry-run")))
        workspace = Workspace(root)
        stack.enter_context(writing(workspace))
        source, _ = checkpoint_for_build(folder, workspace, **trust)
        yield folder, source, workspace


def print_json(made: Artifact) -> None:
    """The result and all that was measured of it."""
    head = {"result": str(made.path), "digest": made.digest}
    print(json.dumps({**head, **made.measurements}, indent=2, ensure_ascii=False))
