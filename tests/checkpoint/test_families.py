"""Checkpoints that transformers itself saves pass for every family: no rule refuses a good one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from checkpoint_files import VOCAB, edit, write, write_checkpoint, write_tokenizer
from tiny_families import DECODER_FAMILIES, tiny_decoder

from common.errors import UserError
from toolchain.checkpoint.digests import FileScans
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.intake import open_checkpoint
from toolchain.checkpoint.validate import faults_of

SMALL = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
    "num_attention_heads": 4, "max_position_embeddings": 64, "pad_token_id": 0,
    "bos_token_id": 1, "eos_token_id": 1,
}  # fmt: skip
MORE = ("gemma", "phi", "olmo", "starcoder2")


@pytest.mark.parametrize("family", [*DECODER_FAMILIES, *MORE])
def test_family_passes(family: str, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    tiny_decoder(tmp_path, family, tokenizer="own", max_position_embeddings=64)
    model = AutoModelForCausalLM.from_pretrained(tmp_path)
    info = inspect(tmp_path)
    assert faults_of(info, scans=FileScans(None)) == []
    assert info.parameters == model.num_parameters()
    assert info.tied_embeddings is model.config.tie_word_embeddings
    assert info.vocab_size == model.config.vocab_size
    assert info.context_tokens == 64


@pytest.mark.parametrize("family", ["bert", "roberta", "distilbert"])
def test_encoder_passes(family: str, tmp_path: Path) -> None:
    from transformers import CONFIG_MAPPING, AutoModel

    sizes = {"dim": 32, "hidden_dim": 48, "n_layers": 2, "n_heads": 4, "vocab_size": VOCAB}
    config = CONFIG_MAPPING[family](**(sizes if family == "distilbert" else SMALL))
    AutoModel.from_config(config).save_pretrained(tmp_path)
    write_tokenizer(tmp_path, VOCAB)
    assert faults_of(inspect(tmp_path), scans=FileScans(None)) == []


ODD_VALUES = (None, True, -1, 0, 10**30, 1.5, "", "x", [], [[]], {}, {"a": []}, [None], ["\0"])
JSON_FILES = {
    "config.json": (
        "architectures", "model_type", "hidden_size", "num_hidden_layers", "vocab_size",
        "intermediate_size", "num_attention_heads", "num_key_value_heads", "head_dim",
        "max_position_embeddings", "tie_word_embeddings", "eos_token_id", "quantization_config",
        "auto_map", "text_config",
    ),
    "generation_config.json": ("eos_token_id",),
    "tokenizer_config.json": (
        "chat_template", "auto_map", "tokenizer_class", "added_tokens_decoder",
    ),
    "tokenizer.json": ("model", "added_tokens", "pre_tokenizer", "normalizer"),
    "model.safetensors.index.json": ("weight_map", "metadata"),
}  # fmt: skip


@pytest.mark.parametrize("file", JSON_FILES)
def test_odd_values_give_errors_for_users_or_none(file: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", shards=2)
    good = (folder / file).read_text()
    for key in JSON_FILES[file]:
        for value in ODD_VALUES:
            edit(folder / file, **{key: value})
            try:
                open_checkpoint(folder, None)
            except UserError as error:
                assert str(folder) in str(error)
            (folder / file).write_text(good)


def test_odd_values_inside_a_tokenizer(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    for value in ODD_VALUES:
        for model in (
            {"vocab": value},
            {"vocab": {"a": value}},
            {"vocab": {"a": 0}, "type": value},
        ):
            write(folder / "tokenizer.json", {"model": model, "added_tokens": [value]})
            try:
                open_checkpoint(folder, None)
            except UserError as error:
                assert str(folder) in str(error)


def test_damaged_text_files_give_errors_for_users_or_none(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model", shards=2)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    rng = random.Random(11)
    names = [*JSON_FILES, "README.md", "chat_template.jinja"]
    for _ in range(300):
        file = folder / rng.choice(names)
        good = file.read_bytes()
        bad = bytearray(good)
        for _ in range(rng.choice((1, 3))):
            bad[rng.randrange(len(bad))] = rng.randrange(256)
        file.write_bytes(bad[: rng.randrange(len(bad))] if rng.random() < 0.2 else bad)
        try:
            open_checkpoint(folder, None)
        except UserError as error:
            assert str(folder) in str(error)
        file.write_bytes(good)
