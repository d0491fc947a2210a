"""Training throughput against a plain peft + Trainer script on the same rows.

    python scripts/bench_finetune.py --rounds 5

Both sides train the same LoRA on the same random Llama with the same packed rows, batch size and
number of steps, in fresh processes and in changing order; the medians count. A step lasts from the
end of the one before to its own end (logging and progress included); its median over a process,
which other work on the machine disturbs less than the sum, gives the tokens per second. Start,
validation and saving, which the plain script does not do, are left out. Both sides have the same
number of threads and the same OMP_WAIT_POLICY. A table goes to standard output, or JSON with
--json. Background load disturbs single figures; look at the ratio.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
_MARK = "step seconds (median): "
_WORDS = ("lamp", "fox", "kitchen", "weights", "bits", "dog", "turn", "on", "set", "percent")
BATCH = 4

# Prints how long a step after the first took, by the median.
CLOCK = f"""
import itertools
import statistics
import time
from transformers import TrainerCallback
class Clock(TrainerCallback):
    def on_train_begin(self, args, state, control, **_):
        self.ends = []
    def on_step_end(self, args, state, control, **_):
        self.ends.append(time.perf_counter())
    def on_train_end(self, args, state, control, **_):
        steps = [end - start for start, end in itertools.pairwise(self.ends)]
        print("{_MARK}" + str(statistics.median(steps)), flush=True)
"""
OURS = (
    CLOCK
    + """
import sys
from pathlib import Path
from toolchain.train import trainer
from toolchain.train.job import read_job
from toolchain.train.worker import train
start = trainer.EdgeTrainer.__init__
def with_clock(self, job, network, points, callbacks):
    start(self, job, network, points, [*callbacks, Clock()])
trainer.EdgeTrainer.__init__ = with_clock
train(read_job(Path(sys.argv[1])))
"""
)
_PLAIN = (
    CLOCK
    + """
import sys
import torch
from datasets import Dataset
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments, set_seed
model_path, rows_path, out, steps, batch = sys.argv[1:6]
set_seed(0)
model = AutoModelForCausalLM.from_pretrained(model_path, dtype=torch.float32)
model = get_peft_model(model, LoraConfig(
    task_type="CAUSAL_LM", r=8, lora_alpha=16, lora_dropout=0.05, target_modules="all-linear"))
def collate(rows):
    ids = torch.tensor([row["input_ids"] for row in rows])
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": ids, "labels": labels, "attention_mask": torch.ones_like(ids)}
Trainer(
    model=model,
    args=TrainingArguments(
        output_dir=out, per_device_train_batch_size=int(batch), max_steps=int(steps),
        learning_rate=2e-4, lr_scheduler_type="cosine", logging_steps=10, save_strategy="no",
        report_to="none", disable_tqdm=True, remove_unused_columns=False, use_cpu=True),
    train_dataset=Dataset.from_file(rows_path),
    data_collator=collate,
    callbacks=[Clock()],
).train()
"""
)


@dataclass(frozen=True)
class Result:
    """Medians of both sides; a ratio above 1 is in our favour."""

    tokens_per_step: int
    steps: int
    rounds: int
    ours_tokens_per_sec: float
    plain_tokens_per_sec: float
    throughput_ratio: float
    ratios_by_round: list[float]


def main() -> None:
    options = _arguments()
    with tempfile.TemporaryDirectory(prefix="edgeforge-bench-") as name:
        result = measure(Path(name), options.hidden, options.tokens, options.steps, options.rounds)
    if options.json:
        print(json.dumps({"load": os.getloadavg()[0], **asdict(result)}, indent=2))
        return
    print(f"{result.steps} steps of {result.tokens_per_step} tokens, {result.rounds} rounds, "
          f"load {os.getloadavg()[0]:.1f}")  # fmt: skip
    print("| | ours | plain Trainer | ratio |\n|---|---|---|---|")
    print(f"| tokens/s | {result.ours_tokens_per_sec} | {result.plain_tokens_per_sec} | "
          f"{result.throughput_ratio} |")  # fmt: skip


def measure(folder: Path, hidden: int, tokens: int, steps: int, rounds: int) -> Result:
    """Both sides in turn, the order changing from round to round; medians."""
    base = make_base(folder / "base", hidden, tokens)
    data = make_data(folder / "data", rows=BATCH * (steps + 1), tokens=tokens)
    rates: dict[str, list[float]] = {"ours": [], "plain": []}
    tokens_per_step = BATCH * tokens
    for index in range(rounds):
        job_file, train_file = make_job(base, data, folder / f"out-{index}", tokens, steps)
        plain = [str(base), str(train_file), str(folder / "plain"), str(steps), str(BATCH)]
        commands = {"ours": (OURS, [str(job_file)]), "plain": (_PLAIN, plain)}
        for side in sorted(commands, reverse=bool(index % 2)):
            code, words = commands[side]
            rates[side].append(tokens_per_step / step_seconds(code, words))
    median = {side: statistics.median(values) for side, values in rates.items()}
    return Result(
        tokens_per_step=tokens_per_step,
        steps=steps,
        rounds=rounds,
        ours_tokens_per_sec=round(median["ours"], 1),
        plain_tokens_per_sec=round(median["plain"], 1),
        throughput_ratio=round(median["ours"] / median["plain"], 3),
        ratios_by_round=[
            round(a / b, 3) for a, b in zip(rates["ours"], rates["plain"], strict=True)
        ],
    )


def make_base(folder: Path, hidden: int, context: int) -> Path:
    """A random Llama of four layers with a byte-level tokenizer."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<eos>"], initial_alphabet=alphabet, show_progress=False
    )
    bpe.train_from_iterator([" ".join(_WORDS)] * 8, trainer)
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>").save_pretrained(folder)
    config = LlamaConfig(
        hidden_size=hidden,
        intermediate_size=3 * hidden,
        num_attention_heads=hidden // 64,
        num_hidden_layers=4,
        vocab_size=2048,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder


def make_data(folder: Path, rows: int, tokens: int) -> Path:
    """Texts longer than the context, so that every row is cut to the same length."""
    draw = random.Random(0)
    folder.mkdir()
    texts = (" ".join(draw.choices(_WORDS, k=tokens)) for _ in range(rows))
    lines = [json.dumps({"text": text}) + "\n" for text in texts]
    (folder / "train.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def make_job(base: Path, data: Path, out: Path, tokens: int, steps: int) -> tuple[Path, Path]:
    """The job's file and the encoded rows, as the stage leaves them."""
    from toolchain.checkpoint.intake import open_checkpoint
    from toolchain.train import finetune
    from toolchain.train.job import JOB_FILE, TRAIN_FILE
    from toolchain.train.settings import Finetune

    settings = Finetune(
        max_tokens=tokens, batch_size=BATCH, max_steps=steps, saves_per_epoch=1, epochs=1
    )
    config = finetune.Config(data=finetune.data_input(data), settings=settings)
    job, _ = finetune.settle(open_checkpoint(base, None)[0], config, out, lambda _line: None)
    return job.folder / JOB_FILE, job.folder / TRAIN_FILE


def step_seconds(code: str, words: list[str]) -> float:
    """The median step of a script that runs in a process of its own."""
    from toolchain.train.launch import wait_policy

    environment = {
        **wait_policy(os.cpu_count() or 1),
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "HF_HUB_OFFLINE": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith(_MARK)]
    if done.returncode != 0 or not lines:
        raise SystemExit(f"a measured process failed:\n{done.stderr[-2000:]}")
    return float(lines[-1].removeprefix(_MARK))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=256, help="width of the base")
    parser.add_argument("--tokens", type=int, default=256, help="tokens of a row")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="machine-readable result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
