"""A small bundle with all the files of a real one, made in a moment, and its teacher cache."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from report_facts import manifest, reported_bundle
from tiny_gguf import tiny_gguf

from common.files import sha256_file
from toolchain import artifact as artifacts
from toolchain.compress.distill.cache.facts import (
    Facts,
    Part,
    SplitRows,
    part_name,
    planned,
    write_manifest,
)
from toolchain.trust.sums import digests, write_sums

MODEL = "model-F32.gguf"
PROMPT: dict[str, Any] = {
    "id": "1", "prompt": "on", "token_ids": [1, 2], "expected": "on", "expected_token_ids": [3],
    "messages": [{"role": "user", "content": "on"}], "stopped": True,
}  # fmt: skip


def small_whole_bundle(folder: Path) -> Path:
    """GGUF, Modelfile, tokenizer, prompts, profile, manifest, ledger, artifact, sums and log."""
    folder.mkdir()
    sizes = {"hidden": 32, "ffn": 32, "heads": 2, "kv_heads": 1, "layers": 1}
    tiny_gguf(folder / MODEL, **sizes, byte_tokens=True)
    (folder / "tokenizer").mkdir()
    template = {"chat_template": "{{ messages[0].content }}", "bos_token": None}
    _write(folder / "tokenizer" / "tokenizer_config.json", template)
    (folder / "Modelfile").write_text(f'FROM ./{MODEL}\nSYSTEM """be short"""\n', "utf-8")
    (folder / "prompts.jsonl").write_text(json.dumps(PROMPT) + "\n", "utf-8")
    (folder / "smoke_test.py").write_text("print('fine')\n", "utf-8")
    profile = {
        "schema": 1, "model": "tiny", "target": "laptop", "model_file": MODEL, "kind": "decoder",
        "threads": None, "cores": 4, "context_length": 64, "kv_cache_type": "f16",
        "gpu_layers": 0, "memory_bandwidth_bytes_per_sec": 1e10, "stop_texts": ["<|end|>"],
        "thresholds": {"min_answers_equal": 0.9, "max_peak_rss_bytes": 1 << 30},
    }  # fmt: skip
    _write(folder / "profile.json", profile)
    digest = sha256_file(folder / MODEL)
    told = manifest()
    told |= {
        "schema": 1, "model": "tiny", "kind": "decoder", "runtime": "llama.cpp",
        "target": {**told["target"], "processor": {"arch": "x86_64"},
                   "accelerator": {"memory": "shared"}},
        "model_file": {**told["model_file"], "name": MODEL, "sha256": digest},
        "plan": {"kv_cache_bytes": 1000, "compute_bytes": 1000, "candidates": []},
        "chain": [{"stage": "quantize", "digest": "q", "parents": ["cd" * 32],
                   "files": {MODEL: digest}}],
    }  # fmt: skip
    reported_bundle(folder, told)
    _write(folder / "manifest.json", {**told, "files": digests(folder)})
    artifacts.describe(folder, format="bundle", stage="bundle")
    write_sums(folder)
    return folder


def small_cache(folder: Path) -> Path:
    """A complete teacher cache of two parts of training rows and one of validation rows."""
    folder.mkdir()
    facts = Facts(
        teacher="t", teacher_parameters=10, vocabulary="v", kind="causal", labels=(),
        splits={"train": SplitRows(digest="a", rows=5, places=10),
                "validation": SplitRows(digest="b", rows=2, places=4)},
        max_tokens=8, packing=False, loss_on="answer", quantization="none", bf16=False,
        vocab=300, top_k=4, temperatures=(1.0, 2.0), part_rows=3, batch_size=1,
    )  # fmt: skip
    parts = []
    random = np.random.default_rng(0)
    for split, number, first, rows in planned(facts):
        counts = np.full(rows, 2, "<u4")
        records = random.integers(0, 256, (2 * rows, facts.record.bytes), dtype=np.uint8)
        path = folder / part_name(split, number)
        path.write_bytes(counts.tobytes() + records.tobytes())
        parts.append(
            Part(key=facts.key, split=split, number=number, first=first, rows=rows,
                 places=2 * rows, sha256=sha256_file(path))
        )  # fmt: skip
    write_manifest(folder, facts, parts)
    return folder


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
