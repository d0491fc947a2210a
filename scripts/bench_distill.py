"""What a step of distillation costs, against plain fine-tuning and against a plain script.

    python scripts/bench_distill.py --rounds 5

All sides train the same random Llama on the same rows with the same batch size and number of steps,
all weights, in fresh processes and in changing order; the medians count. `cache` reads a teacher's
cache, `finetune` learns the labels alone: their ratio is asked to be at most 1.15. `live` has the
teacher (wider by `--teacher-width`) in memory, `plain` is transformers' Trainer with the same loss
written down in float32, and `trl`, where it is installed, its GKD trainer with the same divergence
(temperature 1, the teacher's words off). See scripts/bench_finetune.py for what a step is.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "scripts")]

from bench_finetune import (  # noqa: E402
    BATCH,
    CLOCK,
    OURS,
    make_base,
    make_data,
    step_seconds,
)

_TEMPERATURE, _ALPHA, _RATE = 2.0, 0.5, 2e-5
_COMMON = (
    CLOCK
    + """
import sys
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed
model_path, teacher_path, rows_path, out, steps, batch = sys.argv[1:7]
set_seed(0)
model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
teacher = AutoModelForCausalLM.from_pretrained(teacher_path, dtype=torch.float32).eval()
def collate(rows):
    ids = torch.tensor([row["input_ids"] for row in rows])
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
settings = dict(
    output_dir=out, per_device_train_batch_size=int(batch), max_steps=int(steps),
    learning_rate=2e-5, lr_scheduler_type="cosine", logging_steps=10, save_strategy="no",
    report_to="none", disable_tqdm=True, remove_unused_columns=False,
    use_cpu=not torch.cuda.is_available())
rows = Dataset.from_file(rows_path)
"""
)
_PLAIN = (
    _COMMON
    + """
class Taught(Trainer):
    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        labels = inputs.pop("labels")[:, 1:]
        with torch.no_grad():
            wanted = teacher.to(labels.device)(**inputs).logits[:, :-1].float()
        given = model(**inputs).logits[:, :-1].float()
        own = labels != -100
        soft = torch.nn.functional.kl_div(
            (given / 2).log_softmax(-1), (wanted / 2).log_softmax(-1),
            log_target=True, reduction="none").sum(-1)[own].mean() * 4
        hard = torch.nn.functional.cross_entropy(given[own], labels[own])
        return 0.5 * soft + 0.5 * hard
Taught(model=model, args=TrainingArguments(**settings), train_dataset=rows,
       data_collator=collate, callbacks=[Clock()]).train()
"""
)
_TRL = (
    _COMMON
    + """
from transformers import AutoTokenizer
try:
    from trl.experimental.gkd import GKDConfig, GKDTrainer
except ImportError:
    from trl import GKDConfig, GKDTrainer
class Taught(GKDTrainer):
    def training_step(self, *args, **kwargs):  # no sampling: the same batches as the others
        return Trainer.training_step(self, *args, **kwargs)
def prompts(rows):
    return {**collate(rows), "prompts": torch.tensor([row["input_ids"][:1] for row in rows])}
trainer = Taught(
    model=model, teacher_model=teacher, args=GKDConfig(**settings, lmbda=0.0, beta=0.0,
    temperature=1.0, dataset_kwargs={"skip_prepare_dataset": True}), train_dataset=rows,
    data_collator=prompts, processing_class=AutoTokenizer.from_pretrained(model_path),
    callbacks=[Clock()])
trainer.train()
"""
)


def main() -> None:
    options = _arguments()
    with tempfile.TemporaryDirectory(prefix="edgeforge-bench-") as name:
        seconds = measure(Path(name), options)
    medians = {side: statistics.median(values) for side, values in seconds.items()}
    ratios = {
        "cache / finetune": medians["cache"] / medians["finetune"],
        **{f"{side} / live": medians[side] / medians["live"]
           for side in ("plain", "trl") if side in medians},
    }  # fmt: skip
    if options.json:
        facts = {"step_sec": medians, "ratios": ratios, "rounds": seconds}
        print(json.dumps({"load": os.getloadavg()[0], **facts}, indent=2))
        return
    print(f"{options.steps} steps of {BATCH * options.tokens} tokens, {options.rounds} rounds, "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    print("| side | step, ms |\n|---|---|")
    for side, median in medians.items():
        print(f"| {side} | {1000 * median:.1f} |")
    for name, ratio in ratios.items():
        print(f"{name}: {ratio:.3f}")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of a step, by side, one figure a round."""
    tokens, steps = options.tokens, options.steps
    base = make_base(folder / "base", options.hidden, tokens)
    teacher = make_base(folder / "teacher", options.hidden * options.teacher_width, tokens)
    data = make_data(folder / "data", rows=BATCH * (steps + 1), tokens=tokens)
    found: dict[str, list[float]] = {}
    for index in range(options.rounds):
        jobs = _jobs(folder / f"round-{index}", base, teacher, data, tokens, steps)
        rows = jobs["live"].parent / "train.arrow"
        words = [base, teacher, rows, folder / "plain", steps, BATCH]
        commands: dict[str, tuple[str, list[Any]]] = {
            side: (OURS, [job]) for side, job in jobs.items()
        }
        commands["plain"] = (_PLAIN, words)
        if find_spec("trl") is not None:
            commands["trl"] = (_TRL, words)
        for side in sorted(commands, reverse=bool(index % 2)):
            code, arguments = commands[side]
            found.setdefault(side, []).append(step_seconds(code, list(map(str, arguments))))
    return found


def _jobs(
    out: Path, base: Path, teacher: Path, data: Path, tokens: int, steps: int
) -> dict[str, Path]:
    """The job's file of each of our sides, as the stages leave them."""
    from toolchain.checkpoint.intake import open_checkpoint
    from toolchain.compress.distill import stage as distill
    from toolchain.compress.distill.cache import stage as cache
    from toolchain.compress.distill.cache.settings import TeacherCache
    from toolchain.compress.distill.settings import Distill
    from toolchain.pipeline import Workspace, run_stage
    from toolchain.stage import Input
    from toolchain.train import finetune
    from toolchain.train.job import JOB_FILE
    from toolchain.train.settings import Finetune

    def quiet(_line: str) -> None:
        return None

    source, taught_by = (open_checkpoint(path, None)[0] for path in (base, teacher))
    inputs = finetune.data_input(data)
    common: dict[str, Any] = {
        "method": "full", "learning_rate": _RATE, "max_tokens": tokens, "batch_size": BATCH,
        "max_steps": steps, "saves_per_epoch": 1, "epochs": 1,
    }  # fmt: skip
    settings = Distill(**common, temperature=_TEMPERATURE, alpha=_ALPHA)
    written = run_stage(
        cache,
        taught_by,
        cache.Config(data=inputs, student=Input.of_artifact(source),
                     settings=TeacherCache.of_distillation(settings)),
        Workspace(out / "cache"),
        quiet,
    )  # fmt: skip
    found = {}
    plain = finetune.Config(data=inputs, settings=Finetune(**common))
    job, _ = finetune.settle(source, plain, out / "finetune", quiet)
    found["finetune"] = job.folder / JOB_FILE
    for side, read in (("live", None), ("cache", Input.of_artifact(written))):
        config = distill.Config(
            data=inputs, teacher=Input.of_artifact(taught_by), cache=read, settings=settings
        )
        purpose = distill.purpose(source, config)
        job, _ = finetune.settle(source, config, out / side, quiet, purpose)
        found[side] = job.folder / JOB_FILE
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=256, help="width of the student")
    parser.add_argument("--teacher-width", type=int, default=2, help="times the student's")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="machine-readable result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
