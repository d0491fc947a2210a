"""Random checkpoints of known shapes, for speed alone: weights decide no engine's time."""

from __future__ import annotations

import json
from pathlib import Path

from common.errors import UserError, near_names
from common.files import folder_in_the_making

ROOT = Path(__file__).resolve().parents[2]
SHAPES = {
    # 201M parameters, the shape of a small Llama: grouped queries 16/4, heads of 64.
    "200m": {
        "hidden_size": 1024,
        "num_hidden_layers": 12,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "head_dim": 64,
        "intermediate_size": 2816,
        "vocab_size": 32000,
        "max_position_embeddings": 2048,
    },
    # A few seconds for everything: to try the benchmark itself.
    "tiny": {
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "intermediate_size": 512,
        "vocab_size": 2048,
        "max_position_embeddings": 1024,
    },
}
_TRAINED_TOKENS = 2000


def make_shape(name: str, folder: Path, seed: int = 0) -> Path:
    """A random Llama of this shape in bfloat16 with a byte-level BPE tokenizer; the one that is
    there when it was made before. Raises `UserError` for an unknown name."""
    if name not in SHAPES:
        raise UserError(f"unknown shape '{name}'", near_names(name, SHAPES))
    facts = folder / "shape.json"
    wanted = {**SHAPES[name], "seed": seed}
    if facts.is_file() and json.loads(facts.read_text("utf-8")) == wanted:
        return folder
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    with folder_in_the_making(folder) as partial:
        _tokenizer(partial)
        config = LlamaConfig(
            **SHAPES[name], tie_word_embeddings=False, bos_token_id=None, eos_token_id=0
        )
        torch.manual_seed(seed)
        LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(partial)
        (partial / facts.name).write_text(json.dumps(wanted), encoding="utf-8")
    return folder


def _tokenizer(folder: Path) -> None:
    """Trained on the project's own code; ids beyond it are never used."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=_TRAINED_TOKENS,
        special_tokens=["<|end|>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    texts = [path.read_text(encoding="utf-8") for path in sorted(ROOT.glob("*/*.py"))]
    bpe.train_from_iterator(texts, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=bpe, eos_token="<|end|>")
    fast.save_pretrained(folder)
