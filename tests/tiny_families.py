"""Tiny random checkpoints of every family that the project knows: one table, from which tests take
some rows and `scripts/model_matrix.py` all.

Structure is that of the real models: grouped queries, biases, q/k norms, fused tensors, norms
behind the blocks, windows, rope scalings, softcaps, experts that are shared, lists with one entry a
layer. Sizes are a few dozen wide.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tiny_encoders import tiny_family
from tiny_models import CHATML, SENTENCES, tiny_bert
from tiny_tokenizers import write_tokenizer

HEADS = {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
WINDOW = {"sliding_window": 24}
_GRANITE = {"embedding_multiplier": 3.0, "logits_scaling": 2.0, "residual_multiplier": 0.3,
            "attention_multiplier": 0.2}  # fmt: skip
_EXPERTS = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64,
            "norm_topk_prob": True}  # fmt: skip
# DeepSeek-V2-Lite: compressed KV, one dense layer first, experts beside those that are shared.
_MLA = {"kv_lora_rank": 32, "q_lora_rank": None, "qk_rope_head_dim": 16, "qk_nope_head_dim": 32,
        "v_head_dim": 32, "n_routed_experts": 4, "num_experts_per_tok": 2, "n_shared_experts": 2,
        "first_k_dense_replace": 1, "moe_intermediate_size": 64, "n_group": 1, "topk_group": 1,
        "topk_method": "greedy", "scoring_func": "softmax", "norm_topk_prob": False,
        "routed_scaling_factor": 1.0, "head_dim": 16}  # fmt: skip

Task = Literal["sequence-classification", "embedding"]


@dataclass(frozen=True)
class Family:
    """`network` is the class of transformers without its ending; `settings` go into its config, on
    top of the sizes that a caller names. `rope` is a rope scaling by its name; `tokenizer` a kind
    of `tiny_tokenizers`; `template` a file of chat templates without its ending. `task`: what an
    encoder is for. `structure` says for a reader what is real about it."""

    title: str
    network: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    tokenizer: str = "qwen2"
    rope: str = ""
    template: str = "chatml"
    structure: str = ""
    task: Task | None = None


DECODER_FAMILIES: dict[str, Family] = {
    "llama2": Family(
        "Llama 2", "Llama", {"num_key_value_heads": None}, "sp-bpe", template="llama-2-chat",
        structure="every head its own keys, untied, SentencePiece BPE"),
    "llama3": Family(
        "Llama 3", "Llama", {"rope_theta": 500000.0}, "llama3", template="llama-3-instruct",
        structure="grouped queries, untied, rope base 500000"),
    "llama3.2": Family(
        "Llama 3.2", "Llama", {"tie_word_embeddings": True}, "llama3", rope="llama3",
        template="llama-3-instruct", structure="tied, rope scaling llama3"),
    "mistral": Family(
        "Mistral", "Mistral", WINDOW, "sp-bpe", template="mistral-instruct",
        structure="grouped queries, window of 24 tokens"),
    "mixtral": Family(
        "Mixtral", "Mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}, "sp-bpe",
        template="mistral-instruct", structure="4 experts, 2 a token"),
    "qwen2": Family(
        "Qwen2.5", "Qwen2", {"tie_word_embeddings": True}, "qwen",
        template="Qwen-Qwen2.5-7B-Instruct", structure="biases of queries, keys, values; tied"),
    "qwen3": Family(
        "Qwen3", "Qwen3", {"head_dim": 24}, "qwen", template="Qwen-Qwen3-0.6B",
        structure="q/k norms, heads together wider than the model"),
    "qwen3-moe": Family(
        "Qwen3-MoE", "Qwen3Moe", {"head_dim": 32, **_EXPERTS}, "qwen",
        template="Qwen-Qwen3-0.6B", structure="q/k norms, 4 experts, 2 a token"),
    "gemma2": Family(
        "Gemma 2", "Gemma2", {**WINDOW, "query_pre_attn_scalar": 16}, "gemma", template="gemma-it",
        structure="softcaps, every second layer a window, norms behind the blocks, tied"),
    "gemma3": Family(
        "Gemma 3 (text)", "Gemma3Text",
        {**WINDOW, "query_pre_attn_scalar": 16, "num_hidden_layers": 7}, "gemma",
        template="gemma-it", structure="five of six layers a window, q/k norms, tied"),
    "phi3": Family(
        "Phi-3", "Phi3", {"head_dim": None, **WINDOW}, "phi3", template="phi-3",
        structure="fused tensors, window of 24 tokens"),
    "phi4": Family(
        "Phi-4", "Phi3", {"head_dim": None}, "cl100k",
        structure="fused tensors, grouped queries, byte-level BPE"),
    "smollm3": Family(
        "SmolLM3", "SmolLM3", {"use_sliding_window": False}, "llama3",
        template="HuggingFaceTB-SmolLM3-3B", structure="every fourth layer without rope"),
    "olmo2": Family(
        "OLMo 2", "Olmo2", {"num_key_value_heads": None, "head_dim": None}, "cl100k",
        structure="norms behind the blocks, q/k norms over all heads"),
    "granite": Family(
        "Granite", "Granite", _GRANITE, "starcoder",
        structure="multipliers of embedding, residual, attention and logits"),
    "stablelm": Family(
        "StableLM", "StableLm",
        {"use_qkv_bias": True, "qk_layernorm": False, "head_dim": None,
         "partial_rotary_factor": 0.25}, "neox", template="zephyr",
        structure="LayerNorm, rope over a quarter of a head, biases"),
    "gpt2": Family(
        "GPT-2", "GPT2", {}, "gpt2", template="", structure="learned positions, fused QKV, tied"),
    "gpt-neox": Family(
        "GPT-NeoX", "GPTNeoX",
        {"use_parallel_residual": True, "num_key_value_heads": None, "head_dim": None,
         "initializer_range": 0.12}, "neox",
        template="", structure="parallel blocks, rope over a quarter of a head, fused QKV"),
    "falcon": Family(
        "Falcon", "Falcon", {"multi_query": True, "head_dim": None, "alibi": False}, "falcon",
        template="", structure="one head of keys for all queries, parallel blocks, fused QKV"),
    "cohere": Family(
        "Cohere", "Cohere", {"logit_scale": 0.25, "head_dim": None, "tie_word_embeddings": True},
        "starcoder", structure="parallel blocks, scaled logits, interleaved rope, tied"),
    "deepseek-v2": Family(
        "DeepSeek-V2-Lite shape", "DeepseekV2", {**_MLA, "num_key_value_heads": None},
        "deepseek3", rope="yarn",
        structure="compressed KV, shared experts, one dense layer, rope scaling yarn"),
}  # fmt: skip
ENCODER_FAMILIES: dict[str, Family] = {
    "bert": Family("BERT", "Bert", {}, "wordpiece", task="sequence-classification",
                   structure="classifier"),
    "roberta": Family("RoBERTa", "Roberta", {}, "roberta", task="sequence-classification",
                      structure="classifier, positions behind the padding"),
    "distilbert": Family("DistilBERT", "DistilBert", {}, "wordpiece",
                         task="sequence-classification", structure="classifier, no token types"),
    "deberta-v2": Family("DeBERTa-v2", "DebertaV2", {}, "deberta", task="sequence-classification",
                         structure="classifier, relative positions, disentangled attention"),
    "minilm": Family("MiniLM", "Bert", {}, "wordpiece", task="embedding",
                     structure="mean of the tokens as a vector of length 1"),
    "xlm-r": Family("XLM-R", "XLMRoberta", {}, "xlm-r", task="sequence-classification",
                    structure="classifier, SentencePiece Unigram"),
    "modernbert": Family("ModernBERT", "ModernBert", {}, "modernbert", task="embedding",
                         structure="rope, every third layer global, GeGLU"),
}  # fmt: skip
# Beside the families: one more structure each, of which the exports are of interest.
ROPES: dict[str, Family] = {
    "llama-linear": Family("Llama, rope scaling linear", "Llama", {}, "sp-bpe", rope="linear"),
    "llama-dynamic": Family("Llama, rope scaling dynamic", "Llama", {}, "sp-bpe", rope="dynamic"),
    "qwen2-yarn": Family("Qwen2.5, rope scaling yarn", "Qwen2", {}, "qwen", rope="yarn"),
    "phi3-longrope": Family("Phi-3, rope scaling longrope", "Phi3", {"head_dim": None}, "phi3",
                            rope="longrope", template="phi-3"),
}  # fmt: skip
# One Llama each, for its tokenizer.
TOKENIZERS: dict[str, Family] = {
    f"tokenizer-{kind}": Family(title, "Llama", {}, kind)
    for kind, title in {
        "gpt2": "byte-level BPE, GPT-2's expression (real)",
        "llama-7m": "byte-level BPE, unknown to the converter (real)",
        "qwen": "byte-level BPE, Qwen2's expression, NFC",
        "llama3": "byte-level BPE, Llama 3's expression, whole words first, BOS",
        "cl100k": "byte-level BPE, Llama 3's expression, merges alone",
        "starcoder": "byte-level BPE, single digits",
        "deepseek3": "byte-level BPE, DeepSeek 3's expressions",
        "falcon": "byte-level BPE, Falcon's expressions",
        "sp-bpe": "SentencePiece BPE, byte fallback, with tokenizer.model (real)",
        "sp-bpe-json": "SentencePiece BPE, tokenizer.json alone: scores made of the merges",
        "gemma": "SentencePiece BPE, no space in front, added turns",
        "phi3": "SentencePiece BPE, tokenizer.json alone, added turns that strip",
        "phi3-vision": "SentencePiece BPE, added tokens of which some strip (real)",
        "sp-unigram": "SentencePiece Unigram, byte fallback, with tokenizer.model",
        "sp-unigram-json": "SentencePiece Unigram, tokenizer.json alone",
    }.items()
}
_MORE: dict[str, Family] = {
    "llama": Family("Llama with biases", "Llama", {"attention_bias": True, "mlp_bias": True}),
    "llama-tied": Family("Llama, tied", "Llama", {"tie_word_embeddings": True}),
    "phi": Family("Phi", "Phi", {"head_dim": None}),
    "olmo": Family("OLMo", "Olmo", {"head_dim": None}),
    "starcoder2": Family("StarCoder2", "Starcoder2", {"head_dim": None}),
    "gemma": Family("Gemma", "Gemma", {"num_key_value_heads": 1, "num_attention_heads": 4}),
}  # fmt: skip
MATRIX = (*DECODER_FAMILIES, *ENCODER_FAMILIES, *ROPES, *TOKENIZERS)
FAMILIES: dict[str, Family] = {
    **DECODER_FAMILIES,
    **ENCODER_FAMILIES,
    **ROPES,
    **TOKENIZERS,
    **_MORE,
}
# Those that pruning's tests cut, all with one kind of tokenizer.
DECODERS = ("llama", "llama-tied", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3", "phi3",
            "granite", "smollm3")  # fmt: skip
ENCODERS = ("bert", "bert-tags", "bert-vectors", "roberta")


def tiny_decoder(
    folder: Path,
    family: str,
    *,
    tokenizer: str = "qwen2",
    chat_template: str | None = CHATML,
    assets: Path | None = None,
    seed: int = 0,
    **sizes: Any,
) -> Path:
    """A random decoder of the family in `folder`; weights of norms and biases are random too.
    `tokenizer` is a kind of `tiny_tokenizers` (`own`: the family's), `assets` a folder with real
    ones."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    row = FAMILIES[family]
    kind = row.tokenizer if tokenizer == "own" else tokenizer
    ids = write_tokenizer(folder, kind, sizes.pop("vocab_size", 320), chat_template, assets)
    settings = {
        "hidden_size": 64, "num_hidden_layers": 4, "intermediate_size": 96,
        "max_position_embeddings": 256, "initializer_range": 0.15, "tie_word_embeddings": False,
        **HEADS, **row.settings, **sizes, **ids,
    }  # fmt: skip
    settings = {key: value for key, value in settings.items() if value is not None or "_id" in key}
    if "num_key_value_heads" in row.settings and row.settings["num_key_value_heads"] is None:
        settings["num_key_value_heads"] = settings["num_attention_heads"]
    if row.network.startswith("Gemma") or row.network == "GPT2":
        settings["tie_word_embeddings"] = True
    if "query_pre_attn_scalar" in settings:  # llama.cpp knows no other
        settings["query_pre_attn_scalar"] = settings["head_dim"]
    theta = settings.pop("rope_theta", 10000.0)
    if row.rope or theta != 10000.0:
        settings["rope_parameters"] = {"rope_theta": theta, **_rope(row.rope, settings)}
    config = getattr(transformers, f"{row.network}Config")(**_named(row.network, settings))
    head = "LMHeadModel" if row.network == "GPT2" else "ForCausalLM"
    network = getattr(transformers, f"{row.network.removesuffix('Text')}{head}")
    _write(network, config, folder, seed)
    return folder


def _write(network: Any, config: Any, folder: Path, seed: int) -> None:
    import torch

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = network(config)
        for weight in model.parameters():
            if weight.dim() == 1:
                weight.data += torch.randn_like(weight) * 0.2
    model.save_pretrained(folder)


def _rope(kind: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a rope scaling for these sizes."""
    known = min(64, settings["max_position_embeddings"] // 4)
    head = settings.get("qk_rope_head_dim") or settings.get("head_dim")
    half = (head or settings["hidden_size"] // settings["num_attention_heads"]) // 2
    beside: dict[str, dict[str, Any]] = {
        "": {"rope_type": "default"},
        "linear": {"rope_type": "linear", "factor": 4.0},
        "dynamic": {"rope_type": "dynamic", "factor": 4.0},
        "yarn": {"rope_type": "yarn", "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
                 "original_max_position_embeddings": known},
        "llama3": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, "original_max_position_embeddings": known},
        "longrope": {"rope_type": "longrope", "original_max_position_embeddings": known,
                     "short_factor": [1.0 + 0.02 * n for n in range(half)],
                     "long_factor": [1.0 + 0.1 * n for n in range(half)]},
    }  # fmt: skip
    found = dict(beside[kind])
    if settings.get("kv_lora_rank") and kind == "yarn":
        found.update(mscale=0.707, mscale_all_dim=0.707)
    return found


def _named(network: str, settings: dict[str, Any]) -> dict[str, Any]:
    """The settings under the names that this config has for them."""
    names = {
        "GPT2": {"hidden_size": "n_embd", "num_hidden_layers": "n_layer",
                 "num_attention_heads": "n_head", "max_position_embeddings": "n_positions",
                 "intermediate_size": None, "num_key_value_heads": None, "head_dim": None},
        "Falcon": {"intermediate_size": None, "num_key_value_heads": None},
    }.get(network, {})  # fmt: skip
    renamed = {names.get(key, key): value for key, value in settings.items()}
    return {key: value for key, value in renamed.items() if key is not None}


def tiny_encoder(folder: Path, family: str) -> Path:
    """A random encoder of the family in `folder`, as pruning's tests cut it."""
    if family == "roberta":
        return tiny_family(folder, "roberta")
    task: Any = {"bert-tags": "token-classification", "bert-vectors": "embedding"}.get(family)
    return tiny_bert(folder, task=task or "sequence-classification", layers=4)


def encoder_of(
    folder: Path,
    family: str,
    *,
    task: Task | None = None,
    assets: Path | None = None,
    seed: int = 0,
    **sizes: Any,
) -> Path:
    """A random encoder of the family with its own kind of tokenizer and the head of a task, by
    default its own."""
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    row = ENCODER_FAMILIES[family]
    ids = write_tokenizer(folder, row.tokenizer, sizes.pop("vocab_size", 320), None, assets)
    settings = {
        "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 96, "max_position_embeddings": 130, "initializer_range": 0.15,
        "type_vocab_size": 2 if row.network == "Bert" else 1, **_own(row.network), **sizes, **ids,
    }  # fmt: skip
    task = task or row.task
    if task == "sequence-classification":
        settings |= {"id2label": {0: "cold", 1: "warm"}, "label2id": {"cold": 0, "warm": 1}}
    if row.network == "DistilBert":
        names = {"hidden_size": "dim", "num_hidden_layers": "n_layers",
                 "num_attention_heads": "n_heads", "intermediate_size": "hidden_dim"}  # fmt: skip
        settings = {names.get(key, key): value for key, value in settings.items()}
    config = getattr(transformers, f"{row.network}Config")(**settings)
    head = "ForSequenceClassification" if task == "sequence-classification" else "Model"
    _write(getattr(transformers, f"{row.network}{head}"), config, folder, seed)
    if task == "embedding":
        _write_modules(folder, int(settings.get("hidden_size") or settings["dim"]))
    return folder


def _own(network: str) -> dict[str, Any]:
    if network == "DebertaV2":
        return {"relative_attention": True, "position_buckets": 32, "norm_rel_ebd": "layer_norm",
                "share_att_key": True, "pos_att_type": ["p2c", "c2p"], "max_relative_positions": -1,
                "position_biased_input": False, "type_vocab_size": 0}  # fmt: skip
    if network == "ModernBert":
        return {
            "global_attn_every_n_layers": 3,
            "local_attention": 32,
            "num_hidden_layers": 4,
            "cls_token_id": 2,
            "sep_token_id": 3,
        }
    return {}


def _write_modules(folder: Path, width: int) -> None:
    """The files with which sentence-transformers says: mean of the tokens, length 1."""
    kinds = ("Transformer", "Pooling", "Normalize")
    modules = [
        {"idx": n, "name": str(n), "path": f"{n}_{kind}" if n else "",
         "type": f"sentence_transformers.models.{kind}"}
        for n, kind in enumerate(kinds)
    ]  # fmt: skip
    (folder / "modules.json").write_text(json.dumps(modules), encoding="utf-8")
    pooling = {"word_embedding_dimension": width, "pooling_mode_mean_tokens": True,
               "pooling_mode_cls_token": False, "pooling_mode_max_tokens": False}  # fmt: skip
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(pooling), encoding="utf-8")


def calibration(file: Path, documents: int = 40) -> Path:
    """A text of different documents."""
    lines = [f"{number}. {SENTENCES[number % 3]} {SENTENCES[(number * 5) % 6]}"
             for number in range(documents)]  # fmt: skip
    file.write_text("\n\n".join(lines), encoding="utf-8")
    return file
