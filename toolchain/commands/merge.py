"""`edgeforge merge`: a base and its adapter become one checkpoint."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.options import add_options

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.compress.merge import Config
    from toolchain.compress.merge_plan import MergePlan

HELP = "merge a LoRA or DoRA adapter into its base, in bounded memory"
EXAMPLES = (
    "edgeforge merge --model PATH_OR_HUB_ID --adapter FOLDER",
    "edgeforge merge --model PATH --adapter FOLDER --out build --dtype bfloat16",
    "edgeforge merge --model PATH --adapter FOLDER --dry-run",
)
_DTYPES = ("base", "float32", "float16", "bfloat16")
_GB = 1e9


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    add_options(parser, "model")
    parser.add_argument(
        "--adapter", type=Path, required=True, metavar="FOLDER", help="the adapter that peft saved"
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=Path("build"),
        metavar="DIR",
        help="the merged model lies in DIR/<base>-<adapter>/ (default: build)",
    )
    parser.add_argument(
        "--dtype", choices=_DTYPES, default="base", help="type of the result (default: the base's)"
    )
    parser.add_argument(
        "--force", action="store_true", help="merge onto another base than the adapter's"
    )
    parser.add_argument(
        "--no-verify",
        action="store_true",
        help="do not compare the logits of base plus adapter and merged model",
    )
    add_options(parser, "json", "dry_run", "allow_pickle", "trust_remote_code")


def run(args: argparse.Namespace) -> int:
    """Merge, or say what would be done. Raises `UserError` for everything that a user can mend."""
    from toolchain.compress.merge import Config, adapter_input, prepare
    from toolchain.pipeline import say_on_stderr

    adapter = adapter_input(args.adapter)
    config = Config(
        adapter=adapter,
        force=args.force,
        dtype=args.dtype,
        verify=not args.no_verify,
        trust_remote_code=args.trust_remote_code,
    )
    source = _base(args)
    final = args.out.absolute() / f"{_base_name(args.model)}-{_base_name(str(adapter.path))}"
    _, plan, warnings = prepare(source, config)
    for warning in warnings:
        say_on_stderr(f"warning: {warning}")
    _require_room(final, plan)
    if args.dry_run:
        return _print_plan(args, final, plan, warnings)
    merged, up_to_date = _merge(source, config, final)
    _print_result(args, merged, up_to_date)
    return 0


def _base(args: argparse.Namespace) -> Artifact:
    from toolchain.checkpoint.intake import checkpoint_for_build, open_checkpoint
    from toolchain.checkpoint.locate import locate
    from toolchain.pipeline import Workspace

    trust = {"allow_pickle": args.allow_pickle, "trust_remote_code": args.trust_remote_code}
    folder = locate(args.model, **trust)
    if args.dry_run:
        return open_checkpoint(folder, None, **trust)[0]
    workspace = Workspace(args.out.absolute() / _base_name(args.model))
    source, _ = checkpoint_for_build(folder, workspace, **trust)
    return source


def _base_name(model: str) -> str:
    from toolchain.checkpoint.locate import model_name

    return model_name(model)


def _require_room(final: Path, plan: MergePlan) -> None:
    from common.errors import UserError
    from common.files import require_free_bytes
    from toolchain.compress.merge import MEMORY_BYTES
    from toolchain.hf import free_memory_bytes

    require_free_bytes(final.parent, plan.size_bytes, "the merged model")
    available = free_memory_bytes()
    if available < MEMORY_BYTES:
        raise UserError(
            f"not enough memory to merge: {MEMORY_BYTES / _GB:.1f} GB needed, "
            f"{available / _GB:.1f} GB available",
            "close other programs",
        )


def _merge(source: Artifact, config: Config, final: Path) -> tuple[Artifact, bool]:
    """The merged model, and whether it was there already."""
    from common.errors import UserError
    from common.files import clear_leftovers, folder_in_the_making
    from common.locks import only_writer
    from toolchain import artifact as artifacts
    from toolchain.compress import merge
    from toolchain.pipeline import say_on_stderr, stage_versions

    with only_writer(final.parent / ".merge"):
        clear_leftovers(final)
        if (final / artifacts.MANIFEST).is_file():
            there = artifacts.load(final)
            same = there.parents == (source.digest, config.adapter.digest)
            same = same and there.config == config.model_dump(mode="json")
            if same and there.versions == stage_versions(merge) and not there.damaged_files():
                return there, True
        elif final.exists():
            raise UserError(
                f"{final} exists and is no merged model", "remove it, or choose another --out"
            )
        say_on_stderr("merge …")
        with folder_in_the_making(final) as partial:
            merge.run(source, config, partial)
    return artifacts.load(final), False


def _print_plan(args: argparse.Namespace, final: Path, plan: MergePlan, warnings: list[str]) -> int:
    changed = sum(tensor.change is not None for tensor in plan.tensors)
    facts: dict[str, Any] = {
        "out": str(final),
        "size_bytes": plan.size_bytes,
        "shards": len(plan.shards),
        "changed_tensors": changed,
        "untied_embeddings": plan.untied,
        "warnings": warnings,
    }
    if args.json:
        print(json.dumps(facts, indent=2, ensure_ascii=False))
    else:
        print(
            f"would write {final}: {plan.size_bytes / _GB:.3f} GB in {len(plan.shards)} file(s), "
            f"{changed} of {len(plan.tensors)} tensors changed"
        )
    return 0


def _print_result(args: argparse.Namespace, merged: Artifact, up_to_date: bool) -> None:
    if args.json:
        facts = {"model": str(merged.path), "digest": merged.digest, "up_to_date": up_to_date}
        print(json.dumps({**facts, **merged.measurements}, indent=2, ensure_ascii=False))
        return
    proof = merged.measurements["verification"]
    if proof["status"] == "passed":
        said = f"logits agree to {proof['max_abs_diff']:.2g} (limit {proof['limit']:.2g})"
    else:
        said = f"logits not compared: {proof['reason']}"
    state = "up to date" if up_to_date else "merged"
    print(f"{state}: {merged.path}\n  {said}")
