"""Tiny random checkpoints of the families that pruning knows: grouped queries, biases, q/k norms,
fused tensors, norms behind the blocks, lists with one entry a layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tiny_encoders import tiny_family
from tiny_models import SENTENCES, SPECIALS, tiny_bert, tiny_tokenizer

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
WINDOW = {"sliding_window": 24}
# Family → class of transformers, settings beside the sizes.
DECODERS: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-tied": ("Llama", {"tie_word_embeddings": True}),
    "mistral": ("Mistral", WINDOW),
    "qwen2": ("Qwen2", {"tie_word_embeddings": True}),
    "qwen3": ("Qwen3", {"head_dim": 24}),
    "gemma": ("Gemma", {"num_key_value_heads": 1, "num_attention_heads": 4}),
    "gemma2": ("Gemma2", {**WINDOW, "query_pre_attn_scalar": 16}),
    "gemma3": ("Gemma3Text", {**WINDOW, "query_pre_attn_scalar": 16, "num_hidden_layers": 7}),
    "phi3": ("Phi3", {"head_dim": None, **WINDOW}),
    "granite": ("Granite", {"embedding_multiplier": 3.0, "logits_scaling": 2.0,
                            "residual_multiplier": 0.3, "attention_multiplier": 0.2}),
    "smollm3": ("SmolLM3", {"use_sliding_window": False}),
}  # fmt: skip
ENCODERS = ("bert", "bert-tags", "bert-vectors", "roberta")


def tiny_decoder(folder: Path, family: str, **sizes: Any) -> Path:
    """A random decoder of the family in `folder`; weights of norms and biases are random too."""
    import torch
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    name, own = DECODERS[family]
    size = tiny_tokenizer(folder, sizes.pop("vocab_size", 320))
    settings = {
        "hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 96, "vocab_size": size,
        "max_position_embeddings": 256, "initializer_range": 0.15, "bos_token_id": None,
        "eos_token_id": SPECIALS.index("<|im_end|>"), "tie_word_embeddings": False,
        "pad_token_id": SPECIALS.index("<|endoftext|>"), **HEADS, **own, **sizes,
    }  # fmt: skip
    settings = {key: value for key, value in settings.items() if value is not None or "_id" in key}
    if name.startswith("Gemma"):
        settings["tie_word_embeddings"] = True
    config = getattr(transformers, f"{name}Config")(**settings)
    kind = getattr(transformers, f"{name.removesuffix('Text')}ForCausalLM")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = kind(config)
        for weight in network.parameters():
            if weight.dim() == 1:
                weight.data += torch.randn_like(weight) * 0.2
    network.save_pretrained(folder)
    return folder


def tiny_encoder(folder: Path, family: str) -> Path:
    """A random encoder of the family in `folder`."""
    if family == "roberta":
        return tiny_family(folder, "roberta")
    task: Any = {"bert-tags": "token-classification", "bert-vectors": "embedding"}.get(family)
    return tiny_bert(folder, task=task or "sequence-classification", layers=4)


def calibration(file: Path, documents: int = 40) -> Path:
    """A text of different documents."""
    lines = [f"{number}. {SENTENCES[number % 3]} {SENTENCES[(number * 5) % 6]}"
             for number in range(documents)]  # fmt: skip
    file.write_text("\n\n".join(lines), encoding="utf-8")
    return file
