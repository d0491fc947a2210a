"""What scoring costs: its time against one forward pass over the same calibration tokens, and its
peak memory against the largest layer and the activations.

The network is a random Llama that is made on the spot. The two kinds of pass take turns, each in a
process of its own for the memory; medians are compared. Asked: at most 1.5 for both. Memory is what
scoring adds to a process that has its libraries loaded (`libraries_rss_bytes`, which no size of a
model explains), without pages of the weight file that the system can drop at any time. On a busy
machine the processors' time says more than the clock's.

    python scripts/bench_prune.py
    python scripts/bench_prune.py --hidden 1024 --layers 12 --tokens 2048 --rounds 3
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
_LIMIT = 1.5
_ROW_TOKENS = 256


def main() -> int:
    """Measure, print one JSON object; exit 1 when a limit is missed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--hidden", type=int, default=1024, help="hidden width (default: 1024)")
    parser.add_argument("--layers", type=int, default=14, help="layers (default: 14)")
    parser.add_argument("--tokens", type=int, default=2048, help="calibration tokens")
    parser.add_argument("--rounds", type=int, default=3, help="passes of each kind (default: 3)")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="edgeforge-bench-") as folder:
        checkpoint = Path(folder) / "model"
        _in_process(_make, checkpoint, args.hidden, args.layers)
        times: dict[str, list[float]] = {"forward": [], "score": []}
        cpu: dict[str, list[float]] = {"forward": [], "score": []}
        peaks: list[int] = []
        for number in range(args.rounds):
            for kind in sorted(times, reverse=bool(number % 2)):
                made = _in_process(_measure, checkpoint, kind, args.tokens)
                times[kind].append(made["sec"])
                cpu[kind].append(made["cpu_sec"])
                if kind == "score":
                    peaks.append(made["peak_bytes"])
                    sizes = made
    forward_sec, score_sec = (statistics.median(times[kind]) for kind in ("forward", "score"))
    forward_cpu_sec, score_cpu_sec = (statistics.median(cpu[kind]) for kind in ("forward", "score"))
    allowed_bytes = _LIMIT * sizes["largest_layer_bytes"] + sizes["activation_bytes"]
    found = {
        "parameters": sizes["parameters"],
        "calibration_tokens": args.tokens,
        "forward_sec": round(forward_sec, 3),
        "score_sec": round(score_sec, 3),
        "time_ratio": round(score_sec / forward_sec, 3),
        "cpu_ratio": round(score_cpu_sec / forward_cpu_sec, 3),
        "libraries_rss_bytes": sizes["libraries_rss_bytes"],
        "peak_rss_bytes": max(peaks),
        "allowed_rss_bytes": int(allowed_bytes),
        "largest_layer_bytes": sizes["largest_layer_bytes"],
        "activation_bytes": sizes["activation_bytes"],
        "weight_bytes": sizes["weight_bytes"],
    }
    print(json.dumps(found, indent=2))
    return 0 if score_sec <= _LIMIT * forward_sec and max(peaks) <= allowed_bytes else 1


def _in_process(task: Any, *args: Any) -> Any:
    """The task's answer from a process of its own: its memory is its alone."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(task, args)


def _make(folder: Path, hidden: int, layers: int) -> None:
    import torch
    import transformers

    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        hidden_size=hidden, num_hidden_layers=layers, num_attention_heads=hidden // 64,
        num_key_value_heads=hidden // 128, intermediate_size=hidden * 11 // 4, vocab_size=16000,
        tie_word_embeddings=True,
    )  # fmt: skip
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def _measure(folder: Path, kind: str, tokens: int) -> dict[str, Any]:
    """Seconds of one pass, and how far resident memory rose above that of the loaded libraries."""
    sys.path.insert(0, str(ROOT))
    import torch

    from toolchain.checkpoint.inspect import inspect
    from toolchain.compress.prune.calibration import Batch
    from toolchain.compress.prune.layout import find_layout
    from toolchain.compress.prune.scores import TOKENS_AT_ONCE, score
    from toolchain.compress.prune.settings import Prune
    from toolchain.compress.prune.shape import places
    from toolchain.hf import torch_model

    info = inspect(folder)
    layout = find_layout(info)
    torch.manual_seed(0)
    rows = torch.randint(0, 16000, (tokens // _ROW_TOKENS, _ROW_TOKENS))
    batches = [Batch(ids, torch.ones_like(ids, dtype=torch.bool)) for ids in rows.split(8)]
    where = places(info, layout)
    largest: dict[int, int] = {}
    for tensor in info.tensors:
        if (layer := where[tensor.name].layer) is not None:
            largest[layer] = largest.get(layer, 0) + tensor.elements * 4
    _warm(info, layout, batches[0])
    libraries_bytes = _own_bytes()
    with _PeakMemory() as memory:
        if kind == "score":
            start, cpu_start = time.perf_counter(), time.process_time()
            score(info, layout, batches, Prune())
        else:
            with torch_model(folder) as network:
                start, cpu_start = time.perf_counter(), time.process_time()
                for batch in batches:
                    network.base_model(input_ids=batch.ids, use_cache=False)
        sec, cpu_sec = time.perf_counter() - start, time.process_time() - cpu_start
    hidden, ffn = info.config["hidden_size"], info.config["intermediate_size"]
    tokens_at_once = min(TOKENS_AT_ONCE, batches[0].tokens)
    return {
        "sec": sec,
        "cpu_sec": cpu_sec,
        "libraries_rss_bytes": libraries_bytes,
        "peak_bytes": memory.rise_bytes,
        "parameters": info.parameters,
        "weight_bytes": info.weight_bytes,
        "largest_layer_bytes": max(largest.values()),
        # The stream of all tokens, and what is in the FFN at once: gate, up and their product.
        "activation_bytes": tokens * hidden * 4 + tokens_at_once * (ffn * 3 + hidden * 4) * 4,
    }


def _warm(info: Any, layout: Any, batch: Any) -> None:
    """Load the classes and libraries that both need, on one token."""
    from toolchain.compress.prune.calibration import Batch
    from toolchain.compress.prune.paged import open_paged

    network = open_paged(info, layout)
    network.layer_inputs([Batch(batch.ids[:1, :1], batch.valid[:1, :1])])


class _PeakMemory:
    """Peak of resident memory that is this process's own, above that at the start. Pages of the
    weight files that the system can drop at any time do not count."""

    def __enter__(self) -> _PeakMemory:
        import threading

        self._stop = threading.Event()
        self._start = self._peak = _own_bytes()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def rise_bytes(self) -> int:
        """By how much it rose at most."""
        return self._peak - self._start

    def _watch(self) -> None:
        while not self._stop.wait(0.005):
            self._peak = max(self._peak, _own_bytes())


def _own_bytes() -> int:
    text = Path("/proc/self/smaps_rollup").read_text()
    return 1024 * int(text.split("Anonymous:")[1].split()[0])


if __name__ == "__main__":
    sys.exit(main())
