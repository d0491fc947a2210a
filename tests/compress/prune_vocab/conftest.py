"""Checkpoints with every kind of tokenizer, small, and the text that a user keeps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tiny_models import tiny_bert, tiny_llama
from tiny_vocabularies import HELD_OUT, KEPT, with_sentencepiece

from toolchain.artifact import Artifact
from toolchain.checkpoint.intake import open_checkpoint
from toolchain.compress.prune_vocab.settings import Vocabulary
from toolchain.compress.prune_vocab.stage import Config, run
from toolchain.stage import Input


@pytest.fixture(scope="session")
def byte_level(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "bytes"
    return tiny_llama(folder, hidden=32, ffn=64, layers=1, vocab=480)


@pytest.fixture(scope="session")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tied"
    return tiny_llama(folder, hidden=32, ffn=64, layers=1, vocab=480, tied=True, dtype="bfloat16")


@pytest.fixture(scope="session")
def pieces(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama with a SentencePiece BPE model of its own and byte fall-back."""
    folder = tmp_path_factory.mktemp("models") / "pieces"
    return with_sentencepiece(folder, "bpe", 420)


@pytest.fixture(scope="session")
def wordpiece(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bert(tmp_path_factory.mktemp("models") / "bert")


@pytest.fixture
def cut(tmp_path: Path) -> Callable[..., Artifact]:
    """Run the stage on a checkpoint, keeping the tokens of `text`."""

    def run_on(checkpoint: Path, *text: str, **settings: Any) -> Artifact:
        kept, held = tmp_path / "kept.txt", tmp_path / "held.txt"
        kept.write_text("\n<|document|>\n".join(text or KEPT), encoding="utf-8")
        held.write_text("\n<|document|>\n".join(HELD_OUT), encoding="utf-8")
        config = Config(
            text=(Input.of_file(kept),),
            evaluation=Input.of_file(held),
            settings=Vocabulary(**{"multiple": 1, **settings}),
        )
        out = tmp_path / "out"
        out.mkdir()
        return run(open_checkpoint(checkpoint, None)[0], config, out)

    return run_on
