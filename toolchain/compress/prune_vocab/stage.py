"""Stage `prune-vocab`: tokens that the text never has go, with their rows of embedding and head.

hf → hf, a stock checkpoint of the same architecture whose tokenizer gives the same tokens, under
new ids, on the kept text; both that and equal logits are proven before the result is there.

    edgeforge prune-vocab --model PATH --text my-data.jsonl
"""

from __future__ import annotations

import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.files import require_free_bytes
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.intake import FORMAT, measurements, require_checkpoint
from toolchain.compress.prune_vocab.settings import Vocabulary
from toolchain.stage import Input, StageConfig

if TYPE_CHECKING:
    from toolchain.checkpoint.info import CheckpointInfo
    from toolchain.compress.prune_vocab.choose import Kept
    from toolchain.compress.prune_vocab.survey import Survey

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
    from toolchain.compress.prune_vocab.survey import survey
    from toolchain.compress.prune_vocab.tensors import KeptRows

    require_checkpoint(source, NAME)
    start, info = time.perf_counter(), inspect(source.path)
    require_free_bytes(out_dir, info.weight_bytes, "the model with fewer tokens")
    texts = [text.path for text in config.text]
    found = survey(info, texts, config.settings, trust_remote_code=config.trust_remote_code)
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
    proof.check_tokens(tokenizers, found.template, kept.new)
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
