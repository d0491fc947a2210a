"""Cuts of one model side by side: KLD, perplexity and task score of each way to prune.

    python scripts/bench_cuts.py --model demo
    python scripts/bench_cuts.py --model PATH --text calibration.jsonl --held-out held.jsonl \\
        --cuts ours@0.3,even@0.3,spread@0.3

A cut is a name of `CUTS`, and a ratio behind @ (default: 0.2). Each is a run of stage `prune` with
those settings; then both models are measured on the held-out text, and on the task that the model
brings along. Prints one JSON object a line, the original first. The others get all that the default
has but recovery: several shapes are made and the nearest one is kept.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    from toolchain.evaluate.compare import Settings

# What differs from the default settings of `prune`.
CUTS: Mapping[str, Mapping[str, Any]] = {
    "ours": {},
    "ours-taylor": {"score": "taylor"},
    "no-recovery": {"recover": False},
    "magnitude": {"score": "magnitude", "layer_score": "magnitude", "recover": False},
    "taylor": {"score": "taylor", "recover": False},
    "random": {"score": "random", "layer_score": "random", "recover": False},
    "layers": {"axes": ("layers",), "recover": False},
    "layers-perplexity": {"axes": ("layers",), "layer_score": "perplexity", "recover": False},
    # One shape, the best by its scores: even widths against widths of each layer's own.
    "even": {"candidates": 1},
    "spread": {"candidates": 1, "per_layer": True},
    "per-layer": {"per_layer": True},
}
_DEFAULT = "ours@0.2,magnitude@0.2,taylor@0.2,layers@0.15,layers@0.3"


def main() -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", default="demo", help="folder or hub id (default: demo)")
    parser.add_argument("--text", type=Path, help="calibration text (default: the model's own)")
    parser.add_argument("--held-out", type=Path, help="other text (default: the model's own)")
    parser.add_argument("--cuts", default=_DEFAULT, help=f"{', '.join(CUTS)} (default: {_DEFAULT})")
    parser.add_argument("--tokens", type=int, default=8192, help="held-out tokens (default: 8192)")
    parser.add_argument("--examples", type=int, default=500, help="of the task (default: 500)")
    parser.add_argument("--calibration-tokens", type=int, default=16384)
    parser.add_argument("--snap", type=int, help="widths are multiples of this (default: auto)")
    parser.add_argument("--seed", type=int, default=0, help="which calibration text is taken")
    args = parser.parse_args()
    from common.errors import UserError
    from toolchain.evaluate.compare import Settings

    measured = Settings(text=args.held_out, text_tokens=args.tokens, examples=args.examples)
    own = {
        "calibration_tokens": args.calibration_tokens,
        "seed": args.seed,
        "snap": args.snap or "auto",
    }
    try:
        for row in _rows(args.model, args.text, _wanted(args.cuts, own), measured):
            print(json.dumps(row), flush=True)
    except UserError as error:
        print(f"error: {error.problem}\nhint: {error.mend}", file=sys.stderr)
        return 2
    return 0


def _wanted(cuts: str, own: Mapping[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    """Names and whole settings."""
    found = []
    for cut in cuts.split(","):
        name, _, ratio = cut.partition("@")
        found.append((cut, {**CUTS[name], **own, "ratio": float(ratio or 0.2)}))
    return found


def _rows(
    model: str, text: Path | None, cuts: Sequence[tuple[str, dict[str, Any]]], measured: Settings
) -> Iterator[dict[str, Any]]:
    from toolchain.chain import text_file
    from toolchain.checkpoint.intake import checkpoint_for_build
    from toolchain.checkpoint.locate import locate
    from toolchain.compress.prune import stage
    from toolchain.compress.prune.settings import Prune
    from toolchain.data.text import calibration_text, evaluation_text, require_held_out
    from toolchain.pipeline import Workspace, run_stage, say_on_stderr

    folder = locate(model)
    calibration = calibration_text(folder, text)
    require_held_out(calibration, evaluation_text(folder, measured.text))
    yield {"cut": "original", **_figures(model, None, measured)}
    with tempfile.TemporaryDirectory(prefix="edgeforge-bench-") as out:
        workspace = Workspace(Path(out))
        source, _ = checkpoint_for_build(folder, workspace)
        seen = text_file(calibration, workspace)
        for name, settings in cuts:
            config = stage.Config(text=seen, settings=Prune.model_validate(settings))
            made = run_stage(stage, source, config, workspace, say_on_stderr)
            facts = made.measurements
            yield {
                "cut": name,
                "removed": round(float(facts["ratio"]), 4),
                "shape": facts["shape"],
                **_figures(str(made.path), model, measured),
                "prune_sec": facts["wall_sec"],
                "candidates": facts["candidates"],
            }


def _figures(model: str, against: str | None, measured: Settings) -> dict[str, Any]:
    """Perplexity, KLD to the original in nats, and the task's scores."""
    from dataclasses import replace

    from toolchain.data.text import COMPANION_FOLDER
    from toolchain.evaluate.compare import evaluate
    from toolchain.models import OpenOptions, model_path

    options = OpenOptions(context_tokens=2048)
    on_text = replace(measured, with_task=False)
    found = evaluate(model, on_text, against=against, options=options)
    comparison = found.comparison or {}
    scores: dict[str, float] = {}
    if (model_path(model, options) / COMPANION_FOLDER / "task.jsonl").is_file():
        on_task = replace(measured, with_text=False)
        scores = dict(evaluate(model, on_task, options=options).result.scores)
    return {
        "kld": comparison.get("kld_mean"),
        "top1_agreement": comparison.get("top1_agreement"),
        "perplexity": found.result.perplexity,
        "scores": scores,
    }


if __name__ == "__main__":
    sys.exit(main())
