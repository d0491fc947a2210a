"""Classifier, tagger and embedding model in torch: batches give what single texts give."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_models import SENTENCES, tiny_bert

from runtimes.encoder_batches import encoder_batches, longest_text
from runtimes.pooling import Pooling, pool
from runtimes.protocol import Classifier, Embedder, TokenTagger
from toolchain.encoders import OpenEncoder, open_encoder
from toolchain.hf import load_tokenizer

TEXTS = [*SENTENCES, ("Turn on", "the lamp"), "fox", "lamp " * 300]


def plain(folder: Path, auto_class: str, text: Any) -> Any:
    """The output of transformers for one text alone."""
    import torch
    import transformers

    network = getattr(transformers, auto_class).from_pretrained(folder).eval()
    pair = (text, None) if isinstance(text, str) else text
    inputs = load_tokenizer(folder)(*pair, return_tensors="pt", truncation=True, max_length=128)
    with torch.inference_mode():
        return network(**inputs)


def opened(folder: Path, **settings: Any) -> OpenEncoder[Any]:
    return open_encoder(str(tiny_bert(folder, **settings)))


def test_a_classifier(tmp_path: Path) -> None:
    with opened(tmp_path / "m", labels=("a", "b", "c")) as model:
        assert isinstance(model.engine, Classifier)
        assert (model.engine.labels, model.max_tokens) == (("a", "b", "c"), 128)
        found = model.engine.scores(TEXTS)
        assert found.shape == (len(TEXTS), 3) and found.dtype == np.float32
        assert model.engine.scores([]).shape == (0, 3)
    for text, row in zip(TEXTS, found, strict=True):
        wanted = plain(tmp_path / "m", "AutoModelForSequenceClassification", text).logits[0]
        np.testing.assert_allclose(row, wanted.numpy(), atol=1e-5)
    with pytest.raises(ValueError, match="closed"):
        model.engine.scores(["again"])
    model.close()


def test_an_embedder(tmp_path: Path) -> None:
    with opened(tmp_path / "m", task="embedding") as model:
        assert isinstance(model.engine, Embedder) and model.engine.width == 64
        found = model.engine.embed(TEXTS)
    for text, row in zip(TEXTS, found, strict=True):
        hidden = plain(tmp_path / "m", "AutoModel", text).last_hidden_state[0]
        np.testing.assert_allclose(row, hidden.mean(0).numpy(), atol=1e-5)


def test_a_tagger(tmp_path: Path) -> None:
    texts = [text for text in TEXTS if isinstance(text, str)]
    with opened(tmp_path / "m", task="token-classification", labels=("O", "B-X", "I-X")) as model:
        assert isinstance(model.engine, TokenTagger)
        found = model.engine.token_scores(texts)
    for text, scores in zip(texts, found, strict=True):
        wanted = plain(tmp_path / "m", "AutoModelForTokenClassification", text).logits[0][1:-1]
        np.testing.assert_allclose(scores.logits, wanted.numpy(), atol=1e-5)
        assert len(scores.spans) == len(scores.logits)
    assert [texts[0][start:end] for start, end in found[0].spans[:3]] == ["Turn", "on", "the"]


def test_pooling_leaves_padding_out() -> None:
    hidden = np.arange(24, dtype=np.float32).reshape(2, 4, 3)
    mask = np.array([[1, 1, 0, 0], [0, 1, 1, 1]])
    kept = [hidden[0, :2], hidden[1, 1:]]
    wanted = {
        "mean": [rows.mean(0) for rows in kept],
        "max": [rows.max(0) for rows in kept],
        "cls": [rows[0] for rows in kept],
        "lasttoken": [rows[-1] for rows in kept],
    }
    for mode, rows in wanted.items():
        np.testing.assert_allclose(pool(hidden, mask, Pooling(mode)), rows)  # type: ignore[arg-type]
    lengths = np.linalg.norm(pool(hidden, mask, Pooling("mean", normalize=True)), axis=1)
    np.testing.assert_allclose(lengths, 1, rtol=1e-6)


def test_batches_hold_every_text_once_and_pad_on_the_tokenizers_side(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_bert(tmp_path / "m"))
    for side in ("right", "left"):
        tokenizer.padding_side = side
        made = list(encoder_batches(tokenizer, TEXTS, max_tokens=32, batch_size=4))
        assert sorted(row for batch in made for row in batch.rows) == list(range(len(TEXTS)))
        for batch in made:
            mask = batch.inputs["attention_mask"]
            assert batch.inputs["input_ids"].shape == mask.shape and mask.shape[1] <= 32
            assert (mask[:, 0 if side == "right" else -1] == 1).all()
            assert (batch.inputs["input_ids"][mask == 0] == tokenizer.pad_token_id).all()


def test_how_long_a_text_may_be(tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_bert(tmp_path / "m"))
    assert longest_text({"max_position_embeddings": 100}, tokenizer, 4096) == 100
    assert longest_text({}, tokenizer, 4096) == 128
    assert longest_text({}, tokenizer, 40) == 40
    tokenizer.model_max_length = int(1e30)
    roberta = {"model_type": "roberta", "max_position_embeddings": 514, "pad_token_id": 1}
    assert longest_text(roberta, tokenizer, 4096) == 512
