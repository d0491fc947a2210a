"""A checkpoint's tokenizer files and configs with fewer tokens under new ids."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.damage import told_as_damage
from common.errors import UserError
from common.files import read_object, write_json, write_text
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune_vocab.named_ids import renumbered
from toolchain.compress.prune_vocab.sentencepiece_model import NAMES, SentencePieceModel
from toolchain.compress.prune_vocab.tokenizer_json import TokenizerJson
from toolchain.hf import load_tokenizer

TOKENIZER = "tokenizer.json"
_GENERATION = "generation_config.json"
_DEFAULT_IDS = ("bos_token_id", "eos_token_id", "pad_token_id")


def config_with_ids(info: CheckpointInfo) -> dict[str, Any]:
    """config.json with the ids that its architecture takes where it names none: they would mean
    other tokens in the result."""
    from transformers import AutoConfig

    config = dict(info.config)
    if isinstance(config.get("text_config"), dict):
        return config
    own = AutoConfig.from_pretrained(info.path, trust_remote_code=False, local_files_only=True)
    for key in _DEFAULT_IDS:
        if key not in config and getattr(own, key, None) is not None:
            config[key] = getattr(own, key)
    return config


def read_tokenizer(checkpoint: Path) -> TokenizerJson:
    """The checkpoint's tokenizer.json; made by transformers where the checkpoint has only older
    files. Raises `UserError` for a kind that cannot be cut."""
    if (checkpoint / TOKENIZER).is_file():
        with told_as_damage(checkpoint / TOKENIZER, "fetch the tokenizer's files again"):
            return TokenizerJson(read_object(checkpoint / TOKENIZER))
    backend = getattr(load_tokenizer(checkpoint), "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            "the tokenizer has no tokenizer.json and transformers cannot make one",
            "leave prune-vocab out of the recipe for this model",
        )
    return TokenizerJson(json.loads(backend.to_str()))


def read_sentencepiece(checkpoint: Path) -> list[SentencePieceModel]:
    """The SentencePiece models among the checkpoint's files."""
    return [
        SentencePieceModel(checkpoint / name) for name in NAMES if (checkpoint / name).is_file()
    ]


def write_tokenizer(
    source: Path, tokenizer: TokenizerJson, new: Mapping[int, int], out_dir: Path
) -> list[str]:
    """Write every tokenizer file anew into `out_dir`, over the copies there; notes for a reader."""
    data = tokenizer.with_ids(new)
    _write_compact(out_dir / TOKENIZER, data)
    _write_older_files(source, data, out_dir)
    if (source / "added_tokens.json").is_file():
        added = read_object(source / "added_tokens.json")
        write_json(out_dir / "added_tokens.json", {t: new[i] for t, i in added.items() if i in new})
    _write_tokenizer_config(source, new, out_dir)
    if (source / _GENERATION).is_file():
        write_json(out_dir / _GENERATION, renumbered(read_object(source / _GENERATION), new))
    notes = []
    for model in read_sentencepiece(source):
        if model.numbers_as(tokenizer):
            model.write(out_dir / model.name, new)
        else:
            (out_dir / model.name).unlink(missing_ok=True)
            notes.append(f"{model.name} numbers its pieces otherwise and is left out: "
                         f"{TOKENIZER} says it all")  # fmt: skip
    return notes


def _write_older_files(source: Path, data: Mapping[str, Any], out_dir: Path) -> None:
    """vocab.json, merges.txt, vocab.txt where the checkpoint has them."""
    vocab = data["model"]["vocab"]
    if (source / "vocab.json").is_file():
        _write_compact(out_dir / "vocab.json", vocab)
    if (source / "vocab.txt").is_file():
        write_text(out_dir / "vocab.txt", "".join(f"{token}\n" for token in vocab))
    if (source / "merges.txt").is_file():
        merges = data["model"]["merges"]
        lines = [merge if isinstance(merge, str) else " ".join(merge) for merge in merges]
        write_text(out_dir / "merges.txt", "\n".join(["#version: 0.2", *lines]) + "\n")


def _write_tokenizer_config(source: Path, new: Mapping[int, int], out_dir: Path) -> None:
    path = source / "tokenizer_config.json"
    if not path.is_file():
        return
    config = renumbered(read_object(path), new)
    added = config.get("added_tokens_decoder")
    if isinstance(added, dict):
        config["added_tokens_decoder"] = {
            str(new[int(old)]): entry for old, entry in added.items() if int(old) in new
        }
    write_json(out_dir / path.name, config)


def _write_compact(path: Path, value: Any) -> None:
    # Not sorted: a vocabulary is read in the order of its ids.
    write_text(path, json.dumps(value, ensure_ascii=False, indent=1) + "\n")
