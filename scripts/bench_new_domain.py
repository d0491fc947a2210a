"""How well LoRA teaches the demo model a device that it has never seen, and what of the old stays.

    python scripts/bench_new_domain.py --out build/new-domain

Writes training data of the home-control generator with the reserved device (and some requests of
the old domain, so that it is not forgotten), then runs a recipe of evaluate, finetune, merge and
evaluate. Test requests come from the generator's test part: combinations that training never shows.
Prints exact match before and after, on the new and on the old domain, and the training's time.
"""

from __future__ import annotations

import argparse
import functools
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from common.files import write_text
from toolchain.data.home_control import DEFAULT_DEVICES, RESERVED_DEVICES, generate

NEW_DEVICE = RESERVED_DEVICES[0]
SETTINGS = (
    "{rank: 32, alpha: 32, learning_rate: 1.0e-3, epochs: 2, batch_size: 4, dropout: 0.0, "
    "packing: true, max_tokens: 256, modules_to_save: [embed_tokens]}"
)
RECIPE = """\
stages: [evaluate, finetune, merge, evaluate]
data: {{files: [train.jsonl], split: [0.95, 0.05, 0.0]}}
finetune: {finetune}
evaluate: {{task: new-test.jsonl, task_examples: {examples}}}
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Write the data, run the recipe, print the figures."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--out", type=Path, default=Path("build/new-domain"), metavar="DIR")
    parser.add_argument("--new", type=int, default=8000, metavar="N", help="new requests")
    parser.add_argument("--old", type=int, default=2500, metavar="N", help="old requests")
    parser.add_argument("--examples", type=int, default=500, metavar="N", help="test requests")
    parser.add_argument("--seed", type=int, default=0, metavar="N")
    parser.add_argument(
        "--finetune",
        default=SETTINGS,
        metavar="YAML",
        help="the recipe's section finetune",
    )
    args = parser.parse_args(argv)
    args.out.mkdir(parents=True, exist_ok=True)
    write_data(args.out, args.new, args.old, args.examples, args.seed)
    recipe = args.out / "new-domain.yaml"
    write_text(recipe, RECIPE.format(finetune=args.finetune, examples=args.examples))
    print(json.dumps(measure(recipe, args.out), indent=2))
    return 0


def write_data(out: Path, new: int, old: int, examples: int, seed: int) -> None:
    """`train.jsonl` and `new-test.jsonl`; the old domain's test is the demo model's own task."""
    devices = (*DEFAULT_DEVICES, NEW_DEVICE)
    asked = functools.partial(generate, devices=devices, must_include=NEW_DEVICE)
    train = [*asked("train", new, seed), *generate("train", old, seed + 100)]
    _write(out / "train.jsonl", (example.conversation() for example in train))
    _write(out / "new-test.jsonl", (e.record() for e in asked("test", examples, seed)))


def measure(recipe: Path, out: Path) -> dict[str, Any]:
    """Run the recipe on the demo model; scores before and after, and what the training took."""
    from toolchain import artifact
    from toolchain.build import build
    from toolchain.job import BuildRequest

    request = BuildRequest("laptop", "demo", recipe=str(recipe), out=out / "build")
    stages = build(request).bundle.parent
    found = [artifact.load(path.parent) for path in sorted(stages.glob("*/artifact.json"))]
    measured = [a.measurements for a in found if a.stage == "evaluate"]
    evaluations = {facts["measured"]: facts for facts in measured}
    training = next(a.measurements for a in found if a.stage == "finetune")
    scores = {
        when: {
            domain: facts["tasks"][task]["scores"]["exact_match"]
            for domain, task in (("new", "data"), ("old", "checkpoint"))
        }
        for when, facts in (
            ("before", evaluations["checkpoint"]),
            ("after", evaluations["merge"]),
        )
    }
    figures = ("wall_sec", "steps", "tokens_seen", "epochs", "trainable_share", "peak_rss_bytes")
    return {
        **scores,
        "old_kept": scores["after"]["old"] / scores["before"]["old"],
        "training": {name: training[name] for name in figures},
    }


def _write(path: Path, rows: Iterable[dict[str, object]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


if __name__ == "__main__":
    sys.exit(main())
