"""Stage `prune-vocab`: tokens that the text never has go, with their rows of embedding and head.

hf → hf, a stock checkpoint of the same architecture whose tokenizer gives the same tokens, under
new ids, on the kept text; both that and equal logits are proven before the result is there.

    edgeforge prune-vocab --model PATH --text my-data.jsonl
"""

from __future__ import annotations

import dataclasses
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.intake import FORMAT, measurements
from toolchain.compress.prune_vocab.settings import Vocabulary
from toolchain.stage import Input, StageConfig

if TYPE_CHECKING:
    from toolchain.checkpoint.info import CheckpointInfo
    from toolchain.compress.prune_vocab.choose import Kept
    from toolchain.compress.prune_vocab.tokenizer_json import TokenizerJson

NAME = "prune-vocab"
VERSION = 1
TOOLS = ("sentencepiece", "tokenizers", "torch", "transformers")


class Config(StageConfig):
    """`text` are the files whose tokens stay (those of `settings` are in it), `evaluation` is text
    on which the cost is measured."""

    text: tuple[Input, ...]
    evaluation: Input | None = None
    settings: Vocabulary = Vocabulary()
    trust_remote_code: bool = False


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Cut the vocabulary. Raises `UserError` when the tokenizer or the architecture is not known,
    and when a proof fails."""
    from toolchain.compress.prune.write import write_checkpoint
    from toolchain.compress.prune_vocab.files import write_tokenizer
    from toolchain.compress.prune_vocab.tensors import KeptRows

    if source.format != FORMAT:
        raise UserError(f"{NAME} takes a checkpoint with safetensors, not {source.format}")
    start, info = time.perf_counter(), inspect(source.path)
    found = survey(source, config)
    kept = found.kept
    tensors = KeptRows(info, kept.ids)
    write_checkpoint(source, _config(info, kept), tensors, iter(()), out_dir)
    notes = [*found.notes, *write_tokenizer(source.path, found.tokenizer, kept.new, out_dir)]
    proofs = _prove(info, config, found, out_dir)
    after = inspect(out_dir)
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, *(text.digest for text in config.text)],
        versions={tool: version(tool) for tool in TOOLS},
        measurements={
            **measurements(after),
            "vocabulary": [info.vocab_size, after.vocab_size],
            "parameters_before_after": [info.parameters, after.parameters],
            "weight_bytes_before_after": [info.weight_bytes, after.weight_bytes],
            "kept_for": dict(kept.why),
            **proofs,
            "notes": notes,
            "wall_sec": round(time.perf_counter() - start, 3),
        },
    )


@dataclasses.dataclass(frozen=True)
class Survey:
    """What would stay, before anything is written."""

    tokenizer: TokenizerJson
    kept: Kept
    documents: tuple[str, ...]
    notes: tuple[str, ...]


def survey(source: Artifact, config: Config) -> Survey:
    """Count the text's tokens and choose. Raises `UserError`."""
    from toolchain.compress.prune.layout import find_layout
    from toolchain.compress.prune_vocab.choose import choose
    from toolchain.compress.prune_vocab.files import (
        config_with_ids,
        read_sentencepiece,
        read_tokenizer,
    )
    from toolchain.compress.prune_vocab.named_ids import named_ids
    from toolchain.compress.prune_vocab.texts import kept_documents

    info, settings = inspect(source.path), config.settings
    find_layout(info)
    tokenizer = read_tokenizer(source.path)
    documents = kept_documents([text.path for text in config.text], source.path)
    named = named_ids(config_with_ids(info)) | named_ids(info.generation_config)
    for model in read_sentencepiece(source.path):
        if model.numbers_as(tokenizer):
            named |= model.always(keep_bytes=settings.keep_bytes)
    counts = _counts(source.path, documents, trust=config.trust_remote_code)
    kept = choose(tokenizer, counts, named, settings)
    return Survey(tokenizer, kept, documents, tuple(_notes(info, tokenizer, kept, named, settings)))


def _counts(checkpoint: Path, documents: Sequence[str], *, trust: bool) -> Counter[int]:
    from toolchain.hf import load_tokenizer, token_ids

    tokenizer = load_tokenizer(checkpoint, trust_remote_code=trust)
    counts: Counter[int] = Counter()
    for document in documents:
        for add_special in (True, False):  # a first word may differ without BOS before it
            counts.update(token_ids(tokenizer, document, add_special=add_special))
    return counts


def _notes(
    info: CheckpointInfo,
    tokenizer: TokenizerJson,
    kept: Kept,
    named: set[int],
    settings: Vocabulary,
) -> list[str]:
    notes, rows = [], info.vocab_size or 0
    if rows > len(tokenizer.tokens):
        notes.append(f"{rows - len(tokenizer.tokens)} rows of the embedding belonged to no token "
                     "and are gone")  # fmt: skip
    if len(kept.ids) == len(tokenizer.tokens):
        notes.append("the text has use for every token: none was removed")
    elif len(kept.ids) % settings.multiple:
        notes.append(f"there are not enough tokens for a multiple of {settings.multiple}")
    if lost := sorted(named - set(tokenizer.tokens)):
        notes.append(f"config names ids that no token has, they are gone: {lost[:5]}")
    if not (tokenizer.byte_ids and settings.keep_bytes):
        what = str(tokenizer.tokens.get(tokenizer.unknown_id or -1, "nothing"))
        notes.append(f"no byte tokens stay: characters outside the vocabulary become {what}")
    return notes


def _config(info: CheckpointInfo, kept: Kept) -> dict[str, Any]:
    """config.json with the new size and ids."""
    from toolchain.compress.prune_vocab.files import config_with_ids
    from toolchain.compress.prune_vocab.named_ids import renumbered

    config = renumbered(config_with_ids(info), kept.new)
    nested = config.get("text_config")
    target = nested if isinstance(nested, dict) else config
    target["vocab_size"] = len(kept.ids)
    if target is not config and "vocab_size" in config:
        config["vocab_size"] = len(kept.ids)
    return config


def _prove(info: CheckpointInfo, config: Config, found: Survey, out_dir: Path) -> dict[str, Any]:
    from toolchain.compress.prune_vocab import proof
    from toolchain.data.text import read_documents
    from toolchain.hf import load_tokenizer

    trust, kept = config.trust_remote_code, found.kept
    tokenizers = proof.Tokenizers(
        load_tokenizer(info.path, trust_remote_code=trust),
        load_tokenizer(out_dir, trust_remote_code=trust),
    )
    proofs: dict[str, Any] = {
        "tokens": proof.check_tokens(tokenizers, found.documents, kept.new),
        "held_out": None,
        "logits": None,
    }
    if config.evaluation is not None:
        documents = read_documents(config.evaluation.path, info.path)
        proofs["held_out"] = proof.held_out(tokenizers, documents, kept.new)
    if config.settings.verify:
        rows = proof.logit_rows(tokenizers.old, found.documents, kept)
        proofs["logits"] = proof.check_logits(info, out_dir, rows, kept)
    return proofs
