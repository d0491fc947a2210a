"""Tiny random GGUF files for tests that need no converter."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def llama_shapes(
    hidden: int, ffn: int, layers: int, heads: int, kv_heads: int, vocab: int, *, tied: bool
) -> list[tuple[str, tuple[int, ...]]]:
    """Names and shapes (PyTorch's order) of a Llama's tensors in a GGUF."""
    kv = hidden // heads * kv_heads
    shapes: list[tuple[str, tuple[int, ...]]] = [("token_embd.weight", (vocab, hidden))]
    for layer in range(layers):
        shapes += [
            (f"blk.{layer}.attn_norm.weight", (hidden,)),
            (f"blk.{layer}.attn_q.weight", (hidden, hidden)),
            (f"blk.{layer}.attn_k.weight", (kv, hidden)),
            (f"blk.{layer}.attn_v.weight", (kv, hidden)),
            (f"blk.{layer}.attn_output.weight", (hidden, hidden)),
            (f"blk.{layer}.ffn_norm.weight", (hidden,)),
            (f"blk.{layer}.ffn_gate.weight", (ffn, hidden)),
            (f"blk.{layer}.ffn_up.weight", (ffn, hidden)),
            (f"blk.{layer}.ffn_down.weight", (hidden, ffn)),
        ]
    shapes.append(("output_norm.weight", (hidden,)))
    return shapes if tied else [*shapes, ("output.weight", (vocab, hidden))]


def tiny_gguf(
    path: Path,
    *,
    hidden: int = 256,
    ffn: int = 256,
    layers: int = 2,
    heads: int = 4,
    kv_heads: int = 2,
    vocab: int = 64,
    tied: bool = False,
    seed: int = 0,
    byte_tokens: bool = False,
) -> Path:
    """An F32 Llama. Without `byte_tokens` it has no tokenizer: enough for the quantizer, not for
    generation. With them its tokens are the bytes, one merge and an end, whatever `vocab` says."""
    import gguf
    import numpy

    random = numpy.random.default_rng(seed)
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in llama_metadata(hidden, ffn, layers, heads, kv_heads).items():
        if isinstance(value, float):
            writer.add_float32(f"llama.{key}", value)
        else:
            writer.add_uint32(f"llama.{key}", value)
    if byte_tokens:
        vocab = _add_byte_tokens(writer)
    for name, shape in llama_shapes(hidden, ffn, layers, heads, kv_heads, vocab, tied=tied):
        writer.add_tensor(name, random.normal(0, 0.02, shape).astype(numpy.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _add_byte_tokens(writer: Any) -> int:
    """A byte-level BPE tokenizer and a chat template; how many tokens."""
    from tokenizers.pre_tokenizers import ByteLevel

    tokens = [*sorted(ByteLevel.alphabet()), "th", "<|end|>"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 1) + [3])
    writer.add_token_merges(["t h"])
    writer.add_eos_token_id(len(tokens) - 1)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")
    return len(tokens)


def llama_metadata(
    hidden: int, ffn: int, layers: int, heads: int, kv_heads: int
) -> dict[str, int | float]:
    """The keys, without prefix, that llama.cpp asks of a Llama."""
    return {
        "block_count": layers,
        "context_length": 512,
        "embedding_length": hidden,
        "feed_forward_length": ffn,
        "attention.head_count": heads,
        "attention.head_count_kv": kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-5,
    }
