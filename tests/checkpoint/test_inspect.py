"""What inspection tells of good checkpoints, and that it stays cheap."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from checkpoint_files import (
    CHAT_TEMPLATE,
    CONFIG,
    HIDDEN,
    VOCAB,
    edit,
    weights,
    write,
    write_checkpoint,
)
from tiny_models import CHATML, tiny_llama

from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.validate import validate

ROOT = Path(__file__).resolve().parents[2]
ASSETS = ROOT.parent / "shared" / "assets"
TIED_PARAMETERS = sum(array.size for array in weights().values())


def test_facts_of_a_checkpoint(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "my model")
    (folder / "README.md").write_text("---\nlicense: apache-2.0\ntags: [a]\n---\n# text\n")
    (folder / "LICENSE.txt").write_text("terms")
    (folder / "edgeforge").mkdir()
    info = inspect(folder)
    assert (info.architecture, info.model_type, info.name) == (
        "LlamaForCausalLM", "llama", "my-model",
    )  # fmt: skip
    assert (info.parameters, info.weight_bytes) == (TIED_PARAMETERS, 4 * TIED_PARAMETERS)
    assert (info.vocab_size, info.context_tokens, info.tokenizer_ids) == (VOCAB, 128, VOCAB)
    assert info.tied_embeddings
    assert info.chat_template == CHAT_TEMPLATE
    assert info.eos_token_ids == (1, 2)
    assert info.tokenizer_kind == "bpe"
    assert (info.license_id, info.license_file) == ("apache-2.0", folder / "LICENSE.txt")
    assert info.companion == folder / "edgeforge"
    assert info.faults == ()


def test_tied_head_and_buffers_are_not_counted(tmp_path: Path) -> None:
    tensors = weights()
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    tensors["model.layers.0.self_attn.rotary_emb.inv_freq"] = np.ones(4, dtype="float32")
    tied = inspect(write_checkpoint(tmp_path / "tied", tensors=tensors))
    assert tied.parameters == TIED_PARAMETERS
    untied = write_checkpoint(
        tmp_path / "untied", tensors=tensors, config={"tie_word_embeddings": False}
    )
    assert inspect(untied).parameters == TIED_PARAMETERS + VOCAB * HIDDEN


def test_facts_are_those_of_transformers(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    for tied in (False, True):
        folder = tiny_llama(tmp_path / f"tied-{tied}", tied=tied, dtype="bfloat16")
        info = inspect(folder)
        validate(info)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        assert info.parameters == model.num_parameters()
        assert info.tied_embeddings is tied
        assert info.tokenizer_ids == len(tokenizer)
        assert info.eos_token_ids == (tokenizer.eos_token_id,)
        assert info.chat_template == tokenizer.chat_template == CHATML


def test_chat_template_file_goes_before_the_one_in_the_config(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    named = [{"name": "tool_use", "template": "T"}, {"name": "default", "template": "D"}]
    edit(folder / "tokenizer_config.json", chat_template=named)
    assert inspect(folder).chat_template == "D"
    (folder / "chat_template.jinja").write_text("J", encoding="utf-8")
    assert inspect(folder).chat_template == "J"


def test_multimodal_config_is_read_from_its_nested_part(tmp_path: Path) -> None:
    nested = {key: value for key, value in CONFIG.items() if key != "architectures"}
    outer = dict.fromkeys(nested) | {
        "architectures": ["Gemma3ForConditionalGeneration"],
        "model_type": "gemma3",
        "text_config": {**nested, "model_type": "gemma3_text", "head_dim": 8},
        "vision_config": {"hidden_size": 7, "num_hidden_layers": 1},
    }
    tensors = {f"language_model.{name}": array for name, array in weights().items()}
    tower = "vision_tower.vision_model.encoder.layers.0"
    tensors[f"{tower}.self_attn.q_proj.weight"] = np.ones((7, 7), dtype="float32")
    info = inspect(write_checkpoint(tmp_path / "model", config=outer, tensors=tensors))
    assert (info.model_type, info.vocab_size, info.context_tokens) == ("gemma3_text", VOCAB, 128)
    assert info.tied_embeddings
    validate(info)


@pytest.mark.parametrize(
    ("tokenizer", "kind"),
    [
        ({"model": {"type": "Unigram", "vocab": [["a", 0.0], ["b", -1.0]]}}, "unigram"),
        ({"model": {"type": "WordPiece", "vocab": {"a": 0, "b": 1}}}, "wordpiece"),
        ({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}, "byte_fallback": True}},
         "sentencepiece"),
        ({"model": {"type": "BPE", "vocab": {"a": 0, "b": 1}},
          "normalizer": {"type": "Prepend", "prepend": "▁"}}, "sentencepiece"),
        ({"model": {"vocab": {"a": 0, "b": 1}}, "pre_tokenizer": {"type": "ByteLevel"}}, "bpe"),
    ],
)  # fmt: skip
def test_kinds_of_tokenizer_json(tokenizer: dict, kind: str, tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    write(folder / "tokenizer.json", tokenizer)
    info = inspect(folder)
    assert (info.tokenizer_kind, info.tokenizer_ids) == (kind, 2)
    write(folder / "added_tokens.json", {"<x>": 40})
    assert inspect(folder).tokenizer_ids == 41


def test_tokenizers_without_tokenizer_json(tmp_path: Path) -> None:
    folder = write_checkpoint(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\na\n")
    assert (inspect(folder).tokenizer_kind, inspect(folder).tokenizer_ids) == ("wordpiece", 3)
    write(folder / "vocab.json", {"a": 0, "b": 7})
    (folder / "merges.txt").write_text("#version\n")
    assert (inspect(folder).tokenizer_kind, inspect(folder).tokenizer_ids) == ("bpe", 8)


def test_sentencepiece_model_is_counted_as_the_library_counts(tmp_path: Path) -> None:
    import sentencepiece

    folder = write_checkpoint(tmp_path / "model")
    (folder / "tokenizer.json").unlink()
    (tmp_path / "text.txt").write_text("the lamp in the kitchen is on\n" * 50)
    sentencepiece.SentencePieceTrainer.train(
        input=str(tmp_path / "text.txt"), model_prefix=str(tmp_path / "sp"), vocab_size=20,
        minloglevel=2,
    )  # fmt: skip
    (tmp_path / "sp.model").rename(folder / "tokenizer.model")
    size = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model")).vocab_size()
    info = inspect(folder)
    assert (info.tokenizer_kind, info.tokenizer_ids) == ("sentencepiece", size)


def test_large_checkpoint_is_inspected_at_once_without_heavy_imports(tmp_path: Path) -> None:
    """64 GB in four sparse shards of 300 tensors each; headers are all that is read."""
    folder = write_checkpoint(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    weight_map = {}
    size = (16 << 30) // 300 // 2 * 2
    for shard in range(4):
        file = f"model-{shard + 1:05}-of-00004.safetensors"
        header = {
            f"model.layers.{shard}.t{n}.weight": {
                "dtype": "BF16", "shape": [size // 2], "data_offsets": [n * size, n * size + size],
            }
            for n in range(300)
        }  # fmt: skip
        weight_map |= dict.fromkeys(header, file)
        text = json.dumps(header).encode()
        with (folder / file).open("wb") as stream:
            stream.write(struct.pack("<Q", len(text)) + text)
            stream.truncate(8 + len(text) + 300 * size)
    write(folder / "model.safetensors.index.json", {"weight_map": weight_map})
    code = (
        "import sys; from pathlib import Path; from toolchain.checkpoint.inspect import inspect;"
        f"info = inspect(Path({str(folder)!r})); assert len(info.tensors) == 1200, info.faults;"
        "sys.exit(' '.join({'torch', 'transformers', 'numpy'} & set(sys.modules)) or 0)"
    )
    before = os.times()
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    after = os.times()
    used_sec = after.children_user + after.children_system
    used_sec -= before.children_user + before.children_system
    assert used_sec < 3, "processor time, so that other load does not count"


@pytest.mark.real_model
@pytest.mark.skipif(not ASSETS.is_dir(), reason="no ../shared/assets here")
@pytest.mark.parametrize(
    ("name", "parameters", "kind", "eos"),
    [("stories260K-hf", 260_032, "sentencepiece", (1, 2)), ("llama-7M", 7_344_384, "bpe", (0,))],
)
def test_real_models(name: str, parameters: int, kind: str, eos: tuple[int, ...]) -> None:
    info = inspect(ASSETS / "models" / name)
    validate(info)
    assert (info.parameters, info.tokenizer_kind, info.eos_token_ids) == (parameters, kind, eos)
    assert info.tied_embeddings
