"""A smaller vocabulary: the same tokens and logits on the kept text, stock files, other text still
written."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_vocabularies import HELD_OUT, KEPT, resize, set_json, with_unigram
from transformers import AutoModelForCausalLM, AutoTokenizer

from common.errors import UserError
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.intake import open_checkpoint
from toolchain.checkpoint.validate import validate

Cut = Callable[..., Artifact]


def tokens_of(checkpoint: Path, text: str) -> list[str]:
    """The tokens' own texts: they do not depend on the numbering."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    found: list[str] = tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])
    return found


def logits(checkpoint: Path, text: str) -> tuple[list[str], torch.Tensor]:
    """Every token's text, and the logits after each token of the text."""
    tokenizer = AutoTokenizer.from_pretrained(checkpoint)
    network = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    with torch.no_grad():
        found = network(**tokenizer(text, return_tensors="pt", return_token_type_ids=False)).logits
    return tokenizer.convert_ids_to_tokens(range(found.shape[-1])), found[0]


def assert_same_model(original: Path, made: Path) -> None:
    for text in KEPT:
        assert tokens_of(made, text) == tokens_of(original, text)
        (old, wanted), (new, found) = logits(original, text), logits(made, text)
        places = {token: number for number, token in enumerate(old)}
        wanted = wanted[:, [places[token] for token in new]]
        assert float((found - wanted).abs().max()) <= 1e-5


@pytest.mark.parametrize("kind", ["byte_level", "tied", "pieces"])
def test_the_result_is_a_stock_checkpoint_with_equal_logits(
    kind: str, cut: Cut, request: pytest.FixtureRequest
) -> None:
    original: Path = request.getfixturevalue(kind)
    made = cut(original)
    before, after = made.measurements["vocabulary"]
    assert after < before == inspect(original).vocab_size
    validate(inspect(made.path))
    assert inspect(made.path).tokenizer_ids == after == inspect(made.path).vocab_size
    assert inspect(made.path).tied_embeddings == inspect(original).tied_embeddings
    assert made.measurements["logits"]["max_abs_diff"] <= 1e-5
    assert_same_model(original, made.path)


@pytest.mark.parametrize("kind", ["byte_level", "pieces"])
def test_text_never_seen_is_still_written(
    kind: str, cut: Cut, request: pytest.FixtureRequest
) -> None:
    made = cut(request.getfixturevalue(kind))
    tokenizer = AutoTokenizer.from_pretrained(made.path)
    for text in (*HELD_OUT, "ελληνικά 👍🏽 \U00020000"):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids).strip() == text
        assert tokenizer.unk_token_id not in ids
    held = made.measurements["held_out"]
    assert held["tokens_after"] > held["tokens_before"]
    assert 0 < held["share_gone"] < 1
    assert held["unknown_after"] == held["unknown_before"]


def test_the_sentencepiece_model_has_the_same_pieces_as_tokenizer_json(
    pieces: Path, cut: Cut
) -> None:
    from sentencepiece import SentencePieceProcessor

    made = cut(pieces)
    model = SentencePieceProcessor(model_file=str(made.path / "tokenizer.model"))
    vocab = json.loads((made.path / "tokenizer.json").read_text())["model"]["vocab"]
    assert [model.id_to_piece(i) for i in range(model.vocab_size())] == list(vocab)
    assert (model.unk_id(), model.bos_id(), model.eos_id()) == (0, 1, 2)
    old = SentencePieceProcessor(model_file=str(pieces / "tokenizer.model"))
    for text in KEPT:
        assert model.encode(text, out_type=str) == old.encode(text, out_type=str)


def test_unigram(cut: Cut, tmp_path: Path) -> None:
    """Scores decide, not merges."""
    original = with_unigram(tmp_path / "unigram", 400)
    made = cut(original)
    data = json.loads((made.path / "tokenizer.json").read_text())
    assert data["model"]["type"] == "Unigram"
    assert len(data["model"]["vocab"]) == made.measurements["vocabulary"][1]
    assert_same_model(original, made.path)


def test_wordpiece_keeps_characters_and_classifies_the_same(wordpiece: Path, cut: Cut) -> None:
    made = cut(wordpiece)
    assert made.measurements["vocabulary"][1] < made.measurements["vocabulary"][0]
    assert made.measurements["logits"]["max_abs_diff"] <= 1e-5
    tokenizer = AutoTokenizer.from_pretrained(made.path)
    assert tokenizer.unk_token_id not in tokenizer("kitchen quantization")["input_ids"]
    lines = (made.path / "vocab.txt").read_text().splitlines() if has_vocab(made) else None
    assert lines is None or len(lines) == made.measurements["vocabulary"][1]
    assert any("become [UNK]" in note for note in made.measurements["notes"])


def has_vocab(made: Artifact) -> bool:
    return (made.path / "vocab.txt").is_file()


def test_ids_follow_their_tokens(byte_level: Path, cut: Cut, tmp_path: Path) -> None:
    """Special tokens at the end of the vocabulary move; everything that names them follows."""
    original = shutil.copytree(byte_level, tmp_path / "model")
    last = inspect(byte_level).vocab_size
    assert last
    data = json.loads((original / "tokenizer.json").read_text())
    entry = {**data["added_tokens"][0], "id": last, "content": "<|last|>"}
    (original / "tokenizer.json").write_text(
        json.dumps({**data, "added_tokens": [*data["added_tokens"], entry]})
    )
    resize(original, last + 1)
    set_json(original / "config.json", eos_token_id=[2, last], pad_token_id=last, bos_token_id=1)
    set_json(original / "generation_config.json", eos_token_id=last, suppress_tokens=[last, 5])
    set_json(original / "tokenizer_config.json", eos_token="<|last|>")
    made = cut(original)
    new = made.measurements["vocabulary"][1] - 1
    config = json.loads((made.path / "config.json").read_text())
    assert (config["eos_token_id"], config["pad_token_id"]) == ([2, new], new)
    assert config["vocab_size"] == new + 1
    generation = json.loads((made.path / "generation_config.json").read_text())
    assert (generation["eos_token_id"], generation["suppress_tokens"][0]) == (new, new)
    assert AutoTokenizer.from_pretrained(made.path).eos_token_id == new


def test_rows_of_no_token_go(byte_level: Path, cut: Cut, tmp_path: Path) -> None:
    """Many checkpoints pad their embedding; what no token has can never be read."""
    original = shutil.copytree(byte_level, tmp_path / "padded")
    rows = (inspect(byte_level).vocab_size or 0) + 20
    resize(original, rows)
    made = cut(original)
    assert made.measurements["vocabulary"][0] == rows
    assert (
        "20 rows of the embedding belonged to no token and are gone" in (made.measurements["notes"])
    )
    assert_same_model(original, made.path)


def test_size_is_a_multiple_filled_with_other_tokens(byte_level: Path, cut: Cut) -> None:
    made = cut(byte_level, multiple=64)
    assert made.measurements["vocabulary"][1] % 64 == 0
    assert made.measurements["kept_for"]["filled"] > 0
    assert_same_model(byte_level, made.path)


def test_rare_tokens_go_when_asked(byte_level: Path, cut: Cut) -> None:
    made = cut(byte_level, "the the dog the", "the the", min_count=2)
    counted = made.measurements["tokens"]
    assert (counted["documents_equal"], counted["documents_changed"]) == (1, 1)


def test_the_words_of_the_chat_template_stay(byte_level: Path, cut: Cut) -> None:
    """Plain text has no roles, yet every prompt has."""
    made = cut(byte_level, "a")
    turns = [{"role": "system", "content": "a"}, {"role": "user", "content": "a"}]
    prompts = []
    for checkpoint in (byte_level, made.path):
        tokenizer = AutoTokenizer.from_pretrained(checkpoint)
        ids = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=False)
        prompts.append(tokenizer.convert_ids_to_tokens(ids))
    assert prompts[0] == prompts[1]


def test_the_same_input_gives_the_same_bytes(byte_level: Path, cut: Cut, tmp_path: Path) -> None:
    first = cut(byte_level)
    files = dict(first.files)
    shutil.rmtree(tmp_path / "out")
    assert cut(byte_level).files == files


def test_converts_to_gguf_with_equal_tokens(byte_level: Path, cut: Cut, tmp_path: Path) -> None:
    from runtimes.llama import LlamaModel
    from toolchain.evaluate.awkward import AWKWARD_TEXTS
    from toolchain.evaluate.tokens import token_gate
    from toolchain.export.gguf import convert

    made = cut(byte_level)
    out = tmp_path / "gguf"
    out.mkdir()
    gguf = convert.run(open_checkpoint(made.path, None)[0], convert.Config(model_name="tiny"), out)
    tokenizer = AutoTokenizer.from_pretrained(made.path)
    with LlamaModel(gguf.only(".gguf"), context_tokens=64) as model:
        gate = token_gate(tokenizer, model, [*KEPT, *HELD_OUT, *AWKWARD_TEXTS])
    assert gate.passed, gate.detail


def test_another_kind_of_tokenizer_is_refused(byte_level: Path, cut: Cut, tmp_path: Path) -> None:
    original = shutil.copytree(byte_level, tmp_path / "words")
    data = json.loads((original / "tokenizer.json").read_text())
    model: dict[str, Any] = {"type": "WordLevel", "vocab": data["model"]["vocab"], "unk_token": "!"}
    (original / "tokenizer.json").write_text(json.dumps({**data, "model": model}))
    with pytest.raises(UserError, match="of type WordLevel; its vocabulary can be cut for BPE"):
        cut(original)


def test_a_proof_that_fails_is_an_error(
    byte_level: Path, cut: Cut, monkeypatch: pytest.MonkeyPatch
) -> None:
    from toolchain.compress.prune_vocab.tokenizer_json import TokenizerJson

    monkeypatch.setattr(TokenizerJson, "parts", lambda _, token_id: {token_id})
    with pytest.raises(UserError, match=r"the smaller tokenizer cuts .* otherwise: at token"):
        cut(byte_level, *HELD_OUT, *KEPT)
