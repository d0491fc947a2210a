"""Small Llama checkpoints written with numpy and safetensors alone, to be broken by tests."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

VOCAB = 48
HIDDEN = 32
FFN = 64
HEADS = 4
KV_HEADS = 2
LAYERS = 2
CHAT_TEMPLATE = "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}"
CONFIG: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "hidden_size": HIDDEN,
    "intermediate_size": FFN,
    "num_attention_heads": HEADS,
    "num_key_value_heads": KV_HEADS,
    "num_hidden_layers": LAYERS,
    "vocab_size": VOCAB,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
    "eos_token_id": 1,
    "rms_norm_eps": 1e-6,
}


def weights(layers: int = LAYERS, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Random tensors with the names and shapes of a Llama with tied embeddings."""
    rng = np.random.default_rng(0)
    head = HIDDEN // HEADS
    shapes = {"model.embed_tokens.weight": (VOCAB, HIDDEN), "model.norm.weight": (HIDDEN,)}
    for number in range(layers):
        start = f"model.layers.{number}"
        shapes |= {
            f"{start}.self_attn.q_proj.weight": (HEADS * head, HIDDEN),
            f"{start}.self_attn.k_proj.weight": (KV_HEADS * head, HIDDEN),
            f"{start}.self_attn.v_proj.weight": (KV_HEADS * head, HIDDEN),
            f"{start}.self_attn.o_proj.weight": (HIDDEN, HEADS * head),
            f"{start}.mlp.gate_proj.weight": (FFN, HIDDEN),
            f"{start}.mlp.up_proj.weight": (FFN, HIDDEN),
            f"{start}.mlp.down_proj.weight": (HIDDEN, FFN),
            f"{start}.input_layernorm.weight": (HIDDEN,),
            f"{start}.post_attention_layernorm.weight": (HIDDEN,),
        }
    return {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def write_checkpoint(
    folder: Path,
    *,
    config: dict[str, Any] | None = None,
    tensors: dict[str, np.ndarray] | None = None,
    shards: int = 1,
    tokenizer_tokens: int = VOCAB,
) -> Path:
    """A checkpoint that is good unless the arguments make it bad. `config` None drops a key."""
    folder.mkdir(parents=True, exist_ok=True)
    merged = {**CONFIG, **(config or {})}
    write(folder / "config.json", {k: v for k, v in merged.items() if v is not None})
    write(folder / "generation_config.json", {"eos_token_id": [1, 2]})
    write_tokenizer(folder, tokenizer_tokens)
    write_weights(folder, weights() if tensors is None else tensors, shards)
    return folder


def write_tokenizer(folder: Path, tokens: int) -> None:
    """A byte-level BPE tokenizer.json with this many ids, the last of them an added token."""
    vocab = {f"t{number}": number for number in range(tokens - 1)}
    added = {"id": tokens - 1, "content": "<end>", "special": True}
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    pre_tokenizer = {"type": "ByteLevel", "add_prefix_space": False}
    write(
        folder / "tokenizer.json",
        {"model": model, "added_tokens": [added], "pre_tokenizer": pre_tokenizer},
    )
    write(folder / "tokenizer_config.json", {"chat_template": CHAT_TEMPLATE})


def write_weights(folder: Path, tensors: dict[str, np.ndarray], shards: int = 1) -> None:
    """model.safetensors, or shards with their index."""
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = sorted(tensors)
    weight_map = {}
    for number in range(shards):
        file = f"model-{number + 1:05}-of-{shards:05}.safetensors"
        part = {name: tensors[name] for name in names[number::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(part, file)
    write(folder / "model.safetensors.index.json", {"metadata": {}, "weight_map": weight_map})


def write(path: Path, value: Any) -> None:
    """Any JSON."""
    path.write_text(json.dumps(value), encoding="utf-8")


def edit(path: Path, **changes: Any) -> None:
    """Change keys of a JSON object on disk."""
    write(path, {**json.loads(path.read_text(encoding="utf-8")), **changes})


def snapshot(folder: Path) -> dict[str, bytes | None]:
    """Every path under a folder with its bytes, to see that nothing was written."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in folder.rglob("*")
    }
