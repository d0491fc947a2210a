"""`edgeforge bench`: the CPU benchmark of a finished ONNX bundle."""

from __future__ import annotations

import argparse
import subprocess
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_object
from common.with_parent import with_parent
from toolchain.options import MAKE_VARIABLES, add_options, bundle_folder, count

HELP = "speed of a finished ONNX bundle against FP32, torch and llama.cpp, on this CPU"
EXAMPLES = (
    "edgeforge bench --target cpu-server",
    "edgeforge bench --target cpu-server --model PATH --quick",
    "edgeforge bench --target cpu-server --rounds 9 --threads 2",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    add_options(parser, *MAKE_VARIABLES, "json", "dry_run")
    parser.add_argument("--rounds", type=count, metavar="N", help="interleaved rounds")
    parser.add_argument(
        "--threads", type=count, metavar="N", help="threads (default: the best count found)"
    )
    parser.add_argument("--engines", metavar="NAMES", help="only these: onnx-fp32,onnx-int8,…")
    parser.add_argument("--quick", action="store_true", help="few rounds and clients: a look only")


def run(args: argparse.Namespace) -> int:
    """Run `scripts/bench_cpu.py`; its exit code: 1 when INT8 is slower than FP32 or misses its
    quality gate."""
    if args.host:
        raise UserError(
            "benchmarks on another machine (--host) are not available yet",
            "run it there, in a checkout of this project",
        )
    command = command_of(args)
    if args.dry_run:
        print(f"would run {' '.join(command)}")
        return 0
    from toolchain.child import environment

    return subprocess.run(with_parent(command), env=environment(), check=False).returncode


def command_of(args: argparse.Namespace) -> list[str]:
    """The benchmark's command line for a bundle. Raises `UserError` when there is no such
    bundle."""
    from targets.registry import load_target
    from toolchain.child import ROOT, script_command

    bundle = bundle_folder(args)
    build = "build it first: make target=…"
    if not (bundle / "manifest.json").is_file():
        raise UserError(f"there is no bundle in {bundle}", build)
    manifest = read_object(bundle / "manifest.json")
    if manifest.get("runtime") != "onnxruntime":
        raise UserError(
            f"{bundle} holds a GGUF; this benchmark is for ONNX bundles",
            "its speed is what the smoke test measures: make smoke target=…",
        )
    checkpoint = Path(str(read_object(bundle / "log" / "build.json").get("checkpoint", "")))
    if not (checkpoint / "config.json").is_file():
        raise UserError(f"the checkpoint of {bundle} is not at {checkpoint} any more", build)
    mix = load_target(args.target).onnx
    options = [
        *("--bundle", str(bundle), "--model", str(checkpoint)),
        *("--work", str(bundle.parent / ".bench"), "--out", str(bundle / "log" / "benchmark")),
        *("--prompt-tokens", str(mix.prefill_tokens), "--decode-tokens", str(mix.decode_tokens)),
    ]
    fp32 = _fp32(bundle.parent, manifest)
    options += [] if fp32 is None else ["--onnx", str(fp32)]
    for name in ("rounds", "threads", "engines"):
        value = getattr(args, name)
        options += [] if value is None else [f"--{name}", str(value)]
    options += [f"--{name}" for name in ("quick", "json") if getattr(args, name)]
    return [*script_command(ROOT / "scripts" / "bench_cpu.py"), *options]


def _fp32(workspace: Path, manifest: dict[str, Any]) -> Path | None:
    """The finished export stage that the bundle's chain names; None when it is gone."""
    from toolchain import artifact
    from toolchain.pipeline import STAGES_FOLDER

    digests = {entry["digest"] for entry in manifest["chain"] if entry["stage"].endswith("-export")}
    for path in sorted((workspace / STAGES_FOLDER).glob("onnx-*export-*")):
        if artifact.load(path).digest in digests:
            return path
    return None
