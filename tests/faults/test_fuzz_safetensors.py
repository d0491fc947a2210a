"""Damaged safetensors files, against everything that reads them: checkpoints whole and in shards,
adapters, the blocks of exact training."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest
from fuzz_mutators import damaged_json
from fuzz_safetensors import damaged_file, read_strictly
from fuzz_sandbox import Silent, run_cases
from safetensors.numpy import save_file
from tiny_models import tiny_llama

from toolchain.checkpoint.intake import open_checkpoint
from toolchain.checkpoint.weights import INDEX
from toolchain.compress.adapter import read_adapter
from toolchain.compress.exact.settings import ExactPlan
from toolchain.compress.exact.sidecar import FILE, Exact, read_exact, write_exact

CASES, QUICK = 10_000, 250
pytestmark = pytest.mark.timeout(7200)  # each case has its own
WEIGHTS, ADAPTER = "model.safetensors", "adapter_model.safetensors"


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`whole`, `shards`, `adapter`, `exact`: a folder of each kind, sound."""
    root = tmp_path_factory.mktemp("good")
    sizes: dict[str, Any] = {"hidden": 32, "ffn": 32, "heads": 2, "kv_heads": 1, "layers": 2}
    base = tiny_llama(root / "whole", tied=True, vocab=280, **sizes)
    _shard(base, root / "shards")
    _write_adapter(root / "adapter")
    types = {"model.layers.0.mlp.down_proj.weight": "Q8_0"}
    blocks = {name: np.arange(34 * 4, dtype=np.uint8).reshape(4, 34) for name in types}
    (root / "exact").mkdir()
    write_exact(root / "exact", Exact(ExactPlan(quantization="Q8_0", types=types), blocks))
    return root


def test_damaged_safetensors(good: Path, tmp_path: Path, whole: bool, proven: Any) -> None:
    cases = range(CASES if whole else QUICK)
    readers: tuple[Callable[[Random, Path, Path], None], ...] = (
        _whole, _whole, _shards, _adapter, _exact, _index,
    )  # fmt: skip

    def read(case: int, work: Path) -> None:
        random = Random(f"safetensors {case}")
        readers[case % len(readers)](random, good, work)

    started = time.monotonic()
    outcome = run_cases(cases, read, tmp_path)
    if outcome.faults:
        pytest.fail(outcome.told(), pytrace=False)
    assert outcome.counts["refused"] > len(cases) / 2
    proven("4 hostile files", "safetensors", len(cases), "mutations", time.monotonic() - started)


def _whole(random: Random, good: Path, work: Path) -> None:
    data = (good / "whole" / WEIGHTS).read_bytes()
    changed = damaged_file(random, data)
    _copy(good / "whole", work, {WEIGHTS: changed})
    _, info = open_checkpoint(work, None)
    _require_same(data, changed)
    told = {t.name: (t.dtype, t.shape, t.offset, t.size_bytes) for t in info.tensors}
    start = len(changed) - sum(t.size_bytes for t in info.tensors)
    mine = read_strictly(changed) or {}
    wanted = {n: (kind, shape, start + a, b - a) for n, (kind, shape, a, b) in mine.items()}
    if told != wanted:
        raise Silent("the header was read as something else")


def _shards(random: Random, good: Path, work: Path) -> None:
    name = random.choice(sorted(path.name for path in (good / "shards").glob("*.safetensors")))
    data = (good / "shards" / name).read_bytes()
    changed = damaged_file(random, data)
    _copy(good / "shards", work, {name: changed})
    open_checkpoint(work, None)
    _require_same(data, changed)


def _index(random: Random, good: Path, work: Path) -> None:
    index = json.loads((good / "shards" / INDEX).read_text("utf-8"))
    changed = damaged_json(random, index)
    _copy(good / "shards", work, {INDEX: changed})
    open_checkpoint(work, None)
    if json.loads(changed)["weight_map"] != index["weight_map"]:
        raise Silent("the index sends tensors elsewhere")


def _adapter(random: Random, good: Path, work: Path) -> None:
    data = (good / "adapter" / ADAPTER).read_bytes()
    changed = damaged_file(random, data)
    _copy(good / "adapter", work, {ADAPTER: changed})
    read_adapter(work)
    if read_strictly(changed) is None:
        raise Silent("a broken layout was taken")


def _exact(random: Random, good: Path, work: Path) -> None:
    data = (good / "exact" / FILE).read_bytes()
    changed = damaged_file(random, data)
    (work / FILE).parent.mkdir()
    (work / FILE).write_bytes(changed)
    read_exact(work)
    _require_same(data, changed)


def _require_same(data: bytes, changed: bytes) -> None:
    """What was taken must be whole and have the tensors of the good file, in their types."""
    good, found = read_strictly(data), read_strictly(changed)
    if good is None or found is None:
        raise Silent("a broken layout was taken")
    before, now = ({(name, *one[:2]) for name, one in all_.items()} for all_ in (good, found))
    if before != now:
        raise Silent(f"other tensors were taken: {sorted(now - before)} for {sorted(before - now)}")


def _copy(folder: Path, work: Path, changed: dict[str, bytes]) -> None:
    """The folder's files as links, but for those that are changed."""
    for path in folder.iterdir():
        if path.is_file() and path.name not in changed:
            os.link(path, work / path.name)
    for name, data in changed.items():
        (work / name).write_bytes(data)


def _write_adapter(folder: Path) -> None:
    """As peft saves one of rank 4."""
    folder.mkdir()
    tensors = {
        f"base_model.model.model.layers.{layer}.self_attn.q_proj.lora_{side}.weight": np.ones(
            (4, 32) if side == "A" else (32, 4), np.float32
        )
        for layer in range(2)
        for side in "AB"
    }
    save_file(tensors, folder / ADAPTER)
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "target_modules": ["q_proj"]}
    (folder / "adapter_config.json").write_text(json.dumps(settings), "utf-8")


def _shard(base: Path, folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(base)
    model.save_pretrained(folder, max_shard_size="40KB")
    for path in base.glob("token*"):
        os.link(path, folder / path.name)
