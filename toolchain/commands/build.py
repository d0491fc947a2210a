"""`edgeforge build`: from a checkpoint to a bundle proven on its target."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain.options import MAKE_VARIABLES, add_options

if TYPE_CHECKING:
    from toolchain.build import BuildResult

HELP = "from a checkpoint to a bundle proven on its target"
EXAMPLES = (
    "edgeforge build --target laptop",
    "edgeforge build --target jetson --model PATH_OR_HUB_ID",
    "edgeforge build --target jetson --model PATH --quantization Q4_K_M --out build",
)

_FAILED = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    add_options(parser, *MAKE_VARIABLES, "json", "dry_run", "allow_pickle", "trust_remote_code")


def run(args: argparse.Namespace) -> int:
    """Build; 0 when the bundle passed its smoke test, 1 when a check failed."""
    if args.dry_run:
        from toolchain.commands import plan

        return plan.run(args)
    from toolchain.build import build
    from toolchain.job import BuildRequest

    result = build(
        BuildRequest(
            target=args.target,
            model=args.model,
            recipe=args.recipe,
            data=tuple(args.data),
            quantization=args.quantization,
            out=args.out,
            allow_pickle=args.allow_pickle,
            trust_remote_code=args.trust_remote_code,
        )
    )
    if args.json:
        print(json.dumps(_as_json(result), indent=2, ensure_ascii=False))
    else:
        print(_as_text(result))
    return 0 if result.passed else _FAILED


def _as_json(result: BuildResult) -> dict[str, Any]:
    manifest = _manifest(result.bundle)
    return {
        "bundle": str(result.bundle),
        "up_to_date": result.up_to_date,
        "passed": result.passed,
        "model": manifest.get("model"),
        "quantization": manifest.get("quantization"),
        "model_file": manifest.get("model_file"),
        "gates": manifest.get("gates"),
        "tried": manifest.get("tried"),
        "smoke": dict(result.smoke.data) if result.smoke else None,
    }


def _as_text(result: BuildResult) -> str:
    from toolchain.report.markdown import size

    shown = _shown(result.bundle)
    if result.up_to_date:
        return f"up to date: {shown}"
    lines = [result.smoke.table.rstrip(), ""] if result.smoke else []
    manifest = _manifest(result.bundle)
    if not manifest:
        return "\n".join([*lines, f"exported: {shown}"])
    file = manifest["model_file"]
    lines.append(
        f"{manifest['model']} for {manifest['target']['name']}: {manifest['quantization']}, "
        f"{size(file['size_bytes'])}, {file['bits_per_weight']:.2f} bits per weight"
    )
    lines += [_gate_line(gate) for gate in manifest["gates"]]
    whole = "log/report.html" if (result.bundle / "log" / "report.html").is_file() else "report.md"
    lines.append(f"bundle: {shown} (read {shown}/{whole})")
    return "\n".join(lines)


def _gate_line(gate: dict[str, Any]) -> str:
    if gate["figure"] is None:
        return f"  {gate['name']:<24} {gate['detail']}"
    mark = {True: "passed", False: "FAILED", None: "no limit"}[gate["passed"]]
    limit = "" if gate["limit"] is None else f"limit {gate['limit']:g}"
    return f"  {gate['name']:<24} {gate['figure']:<12.4g} {limit:<14} {mark}"


def _manifest(bundle: Path) -> dict[str, Any]:
    from common.files import read_json

    path = bundle / "manifest.json"
    return dict(read_json(path)) if path.is_file() else {}


def _shown(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
