"""Time and memory of our conversion and quantization against llama.cpp's own tools.

    python scripts/bench_export.py --llama-tools build/llama.cpp/bin --rounds 3

Every round runs, in turn and in changing order, the official converter directly, our `convert`
stage, llama-quantize and our quantizer on the same files; the medians' ratios count (targets: 1.1
for the time of both steps together, 1.2 for the peak resident memory of conversion). By default on
a random Llama of 100M parameters, written to a temporary folder. A table goes to standard output,
or JSON with --json. Background load disturbs single figures; look at the ratios.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
TYPES = ("Q4_0", "Q4_K_M", "Q8_0")
_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


@dataclass(frozen=True)
class Run:
    """One measured process."""

    wall_sec: float
    peak_rss_bytes: int


@dataclass(frozen=True)
class Row:
    """Medians of one job, ours and theirs."""

    job: str
    ours_sec: float
    theirs_sec: float
    time_ratio: float
    ours_rss_bytes: int
    theirs_rss_bytes: int
    rss_ratio: float


def main() -> None:
    options = _arguments()
    with tempfile.TemporaryDirectory(prefix="edgeforge-bench-") as name:
        folder = Path(name)
        checkpoint = options.checkpoint or make_checkpoint(folder / "checkpoint")
        gguf = folder / "source.gguf"
        _measure(_official(checkpoint, gguf))
        jobs = {"convert": (_our_convert(checkpoint), _official(checkpoint, folder / "t.gguf"))}
        for kind in options.types if options.llama_tools else []:
            tool = options.llama_tools.absolute() / "llama-quantize"
            ours = [sys.executable, "-c", _OUR_QUANTIZE, str(gguf), str(folder / "q.gguf"), kind]
            theirs = [str(tool), str(gguf), str(folder / "p.gguf"), kind]
            jobs[f"quantize {kind}"] = (ours, theirs)
        rows = [_row(job, *_rounds(*pair, options.rounds)) for job, pair in jobs.items()]
    rows += [_both(rows[0], row) for row in rows[1:]]
    if options.json:
        print(json.dumps({"load": os.getloadavg()[0], "rows": [asdict(r) for r in rows]}, indent=2))
    else:
        _print_table(rows)


def make_checkpoint(folder: Path) -> Path:
    """A random Llama of about 100M parameters with a byte-level BPE tokenizer, in bfloat16."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    text = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("*/*.py"))]
    trainer = trainers.BpeTrainer(
        vocab_size=8000,
        special_tokens=["<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    bpe.train_from_iterator(text, trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>")
    tokenizer.save_pretrained(folder)
    config = LlamaConfig(
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=14,
        num_attention_heads=12,
        num_key_value_heads=4,
        vocab_size=8192,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=0,
    )
    torch.manual_seed(0)
    LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


_OUR_CONVERT = """
import sys, tempfile
from pathlib import Path
from toolchain.artifact import Artifact
from toolchain.export.gguf import convert
with tempfile.TemporaryDirectory() as out:
    source = Artifact(Path(sys.argv[1]), "hf", {"config.json": "0"}, "inspect")
    config = convert.Config(intermediate="f16", model_name="bench")
    made = convert.run(source, config, Path(out))
"""
_OUR_QUANTIZE = """
import sys
from pathlib import Path
from runtimes.quantizer import quantize
quantize(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
"""
# The converter as it is; only the pre-tokenizer's name, which its table lacks for a trained
# tokenizer, is answered so that it goes on.
_OFFICIAL = """
import runpy, sys
folder = sys.argv[1]
sys.path[:0] = [folder, folder + "/gguf-py"]
import conversion.base as base
known = base.TextModel.get_vocab_base_pre
def name(self, tokenizer):
    try:
        return known(self, tokenizer)
    except NotImplementedError:
        return "gpt-2"
base.TextModel.get_vocab_base_pre = name
sys.argv = [folder + "/convert_hf_to_gguf.py", *sys.argv[2:]]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def _our_convert(checkpoint: Path) -> list[str]:
    return [sys.executable, "-c", _OUR_CONVERT, str(checkpoint)]


def _official(checkpoint: Path, target: Path) -> list[str]:
    from runtimes.vendored import llama_cpp_folder

    command = [sys.executable, "-P", "-c", _OFFICIAL, str(llama_cpp_folder()), str(checkpoint)]
    return [*command, "--outtype", "f16", "--outfile", str(target), "--model-name", "bench"]


def _rounds(ours: list[str], theirs: list[str], rounds: int) -> tuple[list[Run], list[Run]]:
    mine: list[Run] = []
    others: list[Run] = []
    for number in range(rounds):
        turns: list[Callable[[], None]] = [
            lambda: mine.append(_measure(ours)),
            lambda: others.append(_measure(theirs)),
        ]
        for turn in turns if number % 2 == 0 else reversed(turns):
            turn()
    return mine, others


def _measure(command: list[str]) -> Run:
    """Wall time and peak memory of a process and its children (the largest single process)."""
    watcher = (
        "import json, resource, subprocess, sys; "
        "code = subprocess.run(sys.argv[1:], stdout=2).returncode; "
        "print(json.dumps([code, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss]))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", watcher, *command],
        capture_output=True,
        text=True,
        check=True,
        env=environment,
    )
    wall_sec = time.perf_counter() - start
    code, peak = json.loads(done.stdout)
    if code != 0:
        raise SystemExit(f"{command[:4]} failed:\n{done.stderr[-2000:]}")
    return Run(wall_sec, peak * _RSS_UNIT)


def _row(job: str, ours: list[Run], theirs: list[Run]) -> Row:
    times = [statistics.median(run.wall_sec for run in runs) for runs in (ours, theirs)]
    peaks = [int(statistics.median(run.peak_rss_bytes for run in runs)) for runs in (ours, theirs)]
    return Row(
        job,
        round(times[0], 3),
        round(times[1], 3),
        round(times[0] / times[1], 3),
        peaks[0],
        peaks[1],
        round(peaks[0] / peaks[1], 3),
    )


def _both(convert: Row, quantize: Row) -> Row:
    """The whole way: conversion, then one quantization."""
    ours_sec = convert.ours_sec + quantize.ours_sec
    theirs_sec = convert.theirs_sec + quantize.theirs_sec
    ours_rss = max(convert.ours_rss_bytes, quantize.ours_rss_bytes)
    theirs_rss = max(convert.theirs_rss_bytes, quantize.theirs_rss_bytes)
    return Row(
        f"convert + {quantize.job.removeprefix('quantize ')}",
        round(ours_sec, 3),
        round(theirs_sec, 3),
        round(ours_sec / theirs_sec, 3),
        ours_rss,
        theirs_rss,
        round(ours_rss / theirs_rss, 3),
    )


def _print_table(rows: list[Row]) -> None:
    print(
        f"{'job':18} {'ours s':>8} {'theirs s':>9} {'ratio':>6} {'ours MB':>8} {'theirs':>7} ratio"
    )
    for row in rows:
        print(
            f"{row.job:18} {row.ours_sec:8.2f} {row.theirs_sec:9.2f} {row.time_ratio:6.2f} "
            f"{row.ours_rss_bytes / 1e6:8.0f} {row.theirs_rss_bytes / 1e6:7.0f} "
            f"{row.rss_ratio:5.2f}"
        )
    print(f"load average {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores")


def _arguments() -> argparse.Namespace:
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", type=Path, help="checkpoint to convert (default: random)")
    parser.add_argument("--llama-tools", type=Path, help="folder with llama-quantize")
    parser.add_argument("--types", nargs="+", default=list(TYPES), help="quantizations to compare")
    parser.add_argument("--rounds", type=int, default=3, help="rounds of each pair")
    parser.add_argument("--json", action="store_true", help="JSON on standard output")
    return parser.parse_args()


if __name__ == "__main__":
    main()
