"""Damaged tokenizer files and configs of a checkpoint, against everything of ours that reads them,
and against the libraries that ours hand them to."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from random import Random
from typing import Any

import pytest
from fuzz_mutators import damaged, damaged_json
from fuzz_sandbox import each, run_cases
from tiny_models import tiny_bert, tiny_llama

from common.files import read_object
from toolchain.check.pre_tokenizer import load, tokenizer_limits
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.tokenizer_facts import tokenizer_facts
from toolchain.checkpoint.validate import validate
from toolchain.compress.prune_vocab.files import read_tokenizer
from toolchain.data.chat_format import chat_format
from toolchain.encoder_kinds.checkpoint import labels_of, task_of
from toolchain.export.gguf.obstacles import named_for_tokens, require_computed
from toolchain.hf import end_token_ids, load_tokenizer

CASES, QUICK = 10_000, 200
pytestmark = pytest.mark.timeout(7200)  # each case has its own
TEXT = "Turn on the lamp; naïve café 把灯打开 <|im_end|> \ud7ff\U0001f600 12345  \n"
CONFIGS = ("config.json", "generation_config.json", "tokenizer_config.json")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("good")
    sizes: dict[str, Any] = {"hidden": 32, "ffn": 32, "heads": 2, "kv_heads": 1, "layers": 1}
    tiny_llama(root / "llama", tied=True, vocab=280, **sizes)
    tiny_bert(root / "bert")
    return root


def test_damaged_tokenizers(good: Path, tmp_path: Path, whole: bool, proven: Any) -> None:
    cases = range(CASES if whole else QUICK)

    def read(case: int, work: Path) -> None:
        random = Random(f"tokenizer {case}")
        folder = good / ("bert" if case % 4 == 0 else "llama")
        name = random.choice(CONFIGS) if case % 5 == 0 else "tokenizer.json"
        _copy(folder, work, name, random)
        _read_all(work)

    started = time.monotonic()
    outcome = run_cases(cases, read, tmp_path)
    if outcome.faults:
        pytest.fail(outcome.told(), pytrace=False)
    assert outcome.counts["refused"] > len(cases) / 3
    proven("4 hostile files", "tokenizer.json", len(cases), "mutations", time.monotonic() - started)


def _read_all(folder: Path) -> None:
    each(
        lambda: validate(inspect(folder), deep=False),
        lambda: tokenizer_facts(folder),
        lambda: tokenizer_limits(inspect(folder)),
        lambda: load(folder),
        lambda: _use(folder),
        lambda: _cut(folder),
        lambda: require_computed(read_object(folder / "config.json"), folder),
        lambda: named_for_tokens("Phi-3 mine", {"model_type": "phi3"}, folder),
        lambda: chat_format(folder),
        lambda: task_of(folder) and labels_of(read_object(folder / "config.json"), "it"),
        all_must=True,
    )


def _use(folder: Path) -> None:
    """As every verb that opens a checkpoint does."""
    tokenizer = load_tokenizer(folder)
    end_token_ids(folder, tokenizer)


def _cut(folder: Path) -> None:
    """What cutting the vocabulary asks of the tokenizer."""
    tokenizer = read_tokenizer(folder)
    kept = tokenizer.always() | set(tokenizer.byte_ids) | set(tokenizer.character_ids)
    for token_id in sorted(tokenizer.tokens)[::40]:
        kept |= tokenizer.parts(token_id)
    json.dumps(tokenizer.with_ids({old: new for new, old in enumerate(sorted(kept))}))


def _copy(folder: Path, work: Path, name: str, random: Random) -> None:
    """The folder's files as links, but for the one that is changed."""
    for path in folder.iterdir():
        if path.is_file() and path.name != name:
            os.link(path, work / path.name)
    data = (folder / name).read_bytes() if (folder / name).is_file() else b"{}"
    raw = random.random() < 0.2
    changed = damaged(random, data, 400) if raw else damaged_json(random, json.loads(data))
    (work / name).write_bytes(changed)
