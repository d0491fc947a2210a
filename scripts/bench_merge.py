"""Time and memory of our merge against peft's `merge_and_unload` plus `save_pretrained`.

    python scripts/bench_merge.py --size-mb 1000 --rounds 3

Every round merges the same LoRA into the same random base in fresh processes, in changing order,
and the medians count: wall time of the whole process and its peak resident memory. Ours includes
reading and checking the base and digesting the result, and leaves out the proof against peft (peft
makes none either). A table goes to standard output, or JSON with --json. Background load disturbs
single figures; look at the ratios.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
_RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024
_SHARDS = 4
_HIDDEN, _FFN, _HEADS, _VOCAB = 1024, 4096, 16, 2048

_OURS = """
import sys
from pathlib import Path
from toolchain.checkpoint.intake import open_checkpoint
from toolchain.compress import merge
source, _ = open_checkpoint(Path(sys.argv[1]), None)
out = Path(sys.argv[3])
out.mkdir()
config = merge.Config(adapter=merge.adapter_input(Path(sys.argv[2])), verify=False)
merge.run(source, config, out)
"""
_PEFT = """
import sys
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], dtype="auto")
merged = PeftModel.from_pretrained(model, sys.argv[2]).merge_and_unload()
merged.save_pretrained(sys.argv[3], max_shard_size=sys.argv[4])
AutoTokenizer.from_pretrained(sys.argv[1]).save_pretrained(sys.argv[3])
"""


@dataclass(frozen=True)
class Run:
    """One measured process."""

    wall_sec: float
    peak_rss_bytes: int


@dataclass(frozen=True)
class Result:
    """Medians of both sides; ratios below 1 are in our favour."""

    size_bytes: int
    largest_shard_bytes: int
    ours_sec: float
    peft_sec: float
    time_ratio: float
    ours_rss_bytes: int
    peft_rss_bytes: int
    rss_ratio: float


def main() -> None:
    options = _arguments()
    with tempfile.TemporaryDirectory(prefix="edgeforge-bench-") as name:
        folder = Path(name)
        shard_size = f"{max(1, options.size_mb // _SHARDS)}MB"
        base, adapter = folder / "base", folder / "adapter"
        # Not in this process: a child's peak starts with that of the process that spawned it.
        maker = multiprocessing.get_context("spawn").Process(
            target=make_pair,
            args=(base, adapter, options.size_mb, options.dtype, shard_size, options.dora),
        )
        maker.start()
        maker.join()
        if maker.exitcode != 0:
            raise SystemExit("the base could not be made")
        result = measure(base, adapter, folder / "out", shard_size, options.rounds)
    if options.json:
        print(json.dumps({"load": os.getloadavg()[0], **asdict(result)}, indent=2))
    else:
        _print_table(result)


def make_pair(
    base: Path, adapter: Path, size_mb: int, dtype: str, shard_size: str, dora: bool
) -> None:
    """Write base and adapter."""
    make_base(base, size_mb, dtype, shard_size)
    make_adapter(base, adapter, dora=dora)


def make_base(folder: Path, size_mb: int, dtype: str, shard_size: str) -> Path:
    """A random Llama of about `size_mb` megabytes in four shards, with a byte-level tokenizer."""
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
    bpe.train_from_iterator(["a base to merge into"] * 8, trainer)
    PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<eos>").save_pretrained(folder)
    kind = getattr(torch, dtype)
    per_layer = (4 * _HIDDEN * _HIDDEN + 3 * _HIDDEN * _FFN) * kind.itemsize
    config = LlamaConfig(
        hidden_size=_HIDDEN,
        intermediate_size=_FFN,
        num_attention_heads=_HEADS,
        num_hidden_layers=max(1, round(size_mb * 1e6 / per_layer)),
        vocab_size=_VOCAB,
        bos_token_id=None,
        eos_token_id=0,
        dtype=dtype,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(kind).save_pretrained(folder, max_shard_size=shard_size)
    return folder


def make_adapter(base: Path, folder: Path, *, dora: bool) -> Path:
    """A LoRA of rank 8 on all linear layers, with random values."""
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base, dtype="auto")
    settings = LoraConfig(
        task_type="CAUSAL_LM", r=8, lora_alpha=16, target_modules="all-linear", use_dora=dora
    )
    tuned = get_peft_model(model, settings)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.01)
    tuned.save_pretrained(str(folder))
    return folder


def measure(base: Path, adapter: Path, out: Path, shard_size: str, rounds: int) -> Result:
    """Both sides in turn, the order changing from round to round; medians."""
    commands = {
        "ours": [sys.executable, "-c", _OURS, str(base), str(adapter), str(out)],
        "peft": [sys.executable, "-c", _PEFT, str(base), str(adapter), str(out), shard_size],
    }
    runs: dict[str, list[Run]] = {side: [] for side in commands}
    for index in range(rounds):
        for side in sorted(commands, reverse=bool(index % 2)):
            runs[side].append(_measured(commands[side]))
            shutil.rmtree(out)
    shards = [path.stat().st_size for path in base.glob("*.safetensors")]
    seconds = {s: statistics.median(run.wall_sec for run in rows) for s, rows in runs.items()}
    rss = {s: int(statistics.median(run.peak_rss_bytes for run in r)) for s, r in runs.items()}
    return Result(
        size_bytes=sum(shards),
        largest_shard_bytes=max(shards),
        ours_sec=round(seconds["ours"], 2),
        peft_sec=round(seconds["peft"], 2),
        time_ratio=round(seconds["ours"] / seconds["peft"], 3),
        ours_rss_bytes=rss["ours"],
        peft_rss_bytes=rss["peft"],
        rss_ratio=round(rss["ours"] / rss["peft"], 3),
    )


def _measured(command: list[str]) -> Run:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    wall_sec = time.perf_counter() - start
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"a measured process failed: {' '.join(command[:2])} … {command[3:]}")
    return Run(wall_sec, usage.ru_maxrss * _RSS_UNIT_BYTES)


def _print_table(result: Result) -> None:
    print(f"base {result.size_bytes / 1e6:.0f} MB, largest shard "
          f"{result.largest_shard_bytes / 1e6:.0f} MB, load {os.getloadavg()[0]:.1f}")  # fmt: skip
    print("| | ours | peft | ratio |\n|---|---|---|---|")
    print(f"| time, s | {result.ours_sec} | {result.peft_sec} | {result.time_ratio} |")
    print(f"| peak RSS, MB | {result.ours_rss_bytes / 1e6:.0f} | "
          f"{result.peft_rss_bytes / 1e6:.0f} | {result.rss_ratio} |")  # fmt: skip


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size-mb", type=int, default=1000, help="size of the base")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="bfloat16")
    parser.add_argument("--dora", action="store_true", help="a DoRA adapter instead of LoRA")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", action="store_true", help="machine-readable result")
    return parser.parse_args()


if __name__ == "__main__":
    main()
