"""Tiny Llamas with SentencePiece tokenizers trained on the spot, and the texts to keep."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

from tiny_models import SENTENCES, tiny_llama

KEPT = SENTENCES[:2]
HELD_OUT = SENTENCES[2:]


def with_sentencepiece(folder: Path, kind: str, size: int) -> Path:
    """A random Llama whose tokenizer.model was trained here; untied, without tokenizer.json."""
    import sentencepiece

    tiny_llama(folder, hidden=32, ffn=64, layers=1, vocab=size, chat_template=False)
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([*SENTENCES] * 4),
        model_writer=model,
        model_type=kind,
        vocab_size=size,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=2,
    )
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    (folder / "tokenizer.json").unlink()
    set_json(
        folder / "tokenizer_config.json",
        **{"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>"},
        **{"unk_token": "<unk>", "pad_token": None, "add_bos_token": True, "legacy": False},
    )
    ids = {"bos_token_id": 1, "eos_token_id": 2, "pad_token_id": None}
    set_json(folder / "generation_config.json", **ids)
    resize(folder, sentencepiece.SentencePieceProcessor(model_proto=model.getvalue()).vocab_size())
    set_json(folder / "config.json", **ids)
    return folder


def with_unigram(folder: Path, size: int) -> Path:
    """The same with a Unigram tokenizer.json of a SentencePiece model's pieces and scores, and no
    tokenizer.model."""
    from sentencepiece import SentencePieceProcessor
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    with_sentencepiece(folder, "unigram", size)
    pieces = SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    (folder / "tokenizer.model").unlink()
    scored = [(pieces.id_to_piece(i), pieces.get_score(i)) for i in range(pieces.vocab_size())]
    unigram = Tokenizer(models.Unigram(scored, unk_id=0, byte_fallback=True))
    unigram.pre_tokenizer = pre_tokenizers.Metaspace()
    unigram.decoder = decoders.Sequence(
        [decoders.ByteFallback(), decoders.Metaspace(), decoders.Fuse()]
    )
    PreTrainedTokenizerFast(
        tokenizer_object=unigram, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)
    return folder


def resize(folder: Path, rows: int) -> None:
    """Give embedding and head so many rows, random ones."""
    import torch
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    torch.manual_seed(0)
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        weights[name] = torch.randn(rows, weights[name].shape[1]) * 0.1
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    set_json(folder / "config.json", vocab_size=rows)


def set_json(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
