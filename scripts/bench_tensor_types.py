"""What decoding costs in each tensor type on this machine, as ratios to Q4_K.

    python scripts/bench_tensor_types.py > costs.json

A random Llama of 90M weights is written once in every type that a mixed file may have, all matrices
alike; the files take turns in llama.cpp, and the median seconds of a token count. The figures are
those of `toolchain/export/gguf/mixed/decode_costs.yaml`.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

_UNIT = "Q4_K"
_SIZES = {"hidden": 1024, "ffn": 2816, "heads": 16, "kv_heads": 4, "vocab": 512}


def main() -> None:
    """Print the machine's ratios as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--layers", type=int, default=8, help="layers of the model (default: 8)")
    parser.add_argument("--rounds", type=int, default=2, help="turns of all files (default: 2)")
    parser.add_argument("--types", default="", help="only these, separated by commas")
    args = parser.parse_args()
    from toolchain.export.gguf.mixed.settings import TYPES

    types = tuple(filter(None, args.types.split(","))) or TYPES
    with tempfile.TemporaryDirectory(prefix="edgeforge-types-") as folder:
        print(json.dumps(_ratios(Path(folder), types, args.layers, args.rounds), indent=2))


def _ratios(folder: Path, types: tuple[str, ...], layers: int, rounds: int) -> dict[str, object]:
    import statistics

    from runtimes.quantizer import quantize
    from toolchain.compress.prune.speed import decode_tokens_per_sec

    source = folder / "source.gguf"
    _write_model(source, layers)
    files = []
    for kind in types:
        print(f"writing {kind}", file=sys.stderr)
        files.append(folder / f"{kind}.gguf")
        quantize(source, files[-1], "Q4_0", tensor_types={".*": kind})
    turns = [decode_tokens_per_sec(files) for _ in range(rounds)]
    secs = {
        kind: statistics.median(1 / turn[number] for turn in turns)
        for number, kind in enumerate(types)
    }
    unit = secs.get(_UNIT, min(secs.values()))
    return {
        "processor": platform.machine(),
        "tokens_per_sec": {kind: round(1 / sec, 2) for kind, sec in secs.items()},
        "ratios": {kind: round(sec / unit, 3) for kind, sec in secs.items()},
    }


def _write_model(path: Path, layers: int) -> None:
    """A Llama whose weights are random, in F32, with a vocabulary of no meaning."""
    import gguf
    import numpy

    random = numpy.random.default_rng(0)
    hidden, ffn, vocab = _SIZES["hidden"], _SIZES["ffn"], _SIZES["vocab"]
    key = hidden // _SIZES["heads"] * _SIZES["kv_heads"]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_block_count(layers)
    writer.add_context_length(512)
    writer.add_embedding_length(hidden)
    writer.add_feed_forward_length(ffn)
    writer.add_head_count(_SIZES["heads"])
    writer.add_head_count_kv(_SIZES["kv_heads"])
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden // _SIZES["heads"])
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<{number}>".encode() for number in range(vocab)])
    writer.add_token_scores([0.0] * vocab)
    writer.add_token_types([gguf.TokenType.NORMAL] * vocab)

    def matrix(name: str, rows: int, columns: int) -> None:
        values = random.standard_normal((rows, columns), numpy.float32) * numpy.float32(0.02)
        writer.add_tensor(name, values)

    matrix("token_embd.weight", vocab, hidden)
    writer.add_tensor("output_norm.weight", numpy.ones(hidden, numpy.float32))
    for layer in range(layers):
        for name in ("attn_norm", "ffn_norm"):
            writer.add_tensor(f"blk.{layer}.{name}.weight", numpy.ones(hidden, numpy.float32))
        for name, rows, columns in (
            *(("attn_q", hidden, hidden), ("attn_k", key, hidden), ("attn_v", key, hidden)),
            *(("attn_output", hidden, hidden), ("ffn_gate", ffn, hidden), ("ffn_up", ffn, hidden)),
            ("ffn_down", hidden, ffn),
        ):
            matrix(f"blk.{layer}.{name}.weight", rows, columns)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


if __name__ == "__main__":
    main()
