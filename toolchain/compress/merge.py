"""Stage `merge`: a base and a LoRA or DoRA adapter become one checkpoint.

hf → hf with the base's shards, tokenizer and companion data. Memory stays at a few blocks and one
layer's adapter whatever the model's size; the proof against peft runs in a process of its own.
"""

from __future__ import annotations

import contextlib
import resource
import shutil
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError
from common.files import require_free_bytes, write_json
from common.progress import progress_bar
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import CONFIG, inspect
from toolchain.checkpoint.intake import FORMAT, measurements, require_checkpoint
from toolchain.checkpoint.weights import INDEX
from toolchain.compress.adapter import WEIGHTS, Adapter, adapter_digest, read_adapter
from toolchain.compress.base_record import check_base, is_proven
from toolchain.compress.merge_plan import MergePlan, plan_merge
from toolchain.compress.merge_write import write_shard
from toolchain.compress.sparse.record import keep_zeros
from toolchain.stage import Input, StageConfig

NAME = "merge"
VERSION = 1
TOOLS = ("numpy", "peft", "torch", "transformers")
_DISK_MARGIN_BYTES = 50_000_000
# What a merge takes beside nothing of the model: interpreter, numpy, blocks, one layer's adapter.
MEMORY_BYTES = 300_000_000
_RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024


class Config(StageConfig):
    """`adapter` names the adapter's folder by its digest (`adapter_input`). `dtype` is that of the
    result's floats; `verify` compares the logits with peft's where the model fits into memory."""

    adapter: Input
    force: bool = False
    dtype: Literal["base", "float32", "float16", "bfloat16"] = "base"
    verify: bool = True
    trust_remote_code: bool = False


def adapter_input(folder: Path) -> Input:
    """The adapter as an input of the stage."""
    read_adapter(folder)
    return Input(digest=adapter_digest(folder), path=folder.expanduser().absolute())


def prepare(source: Artifact, config: Config) -> tuple[Adapter, MergePlan, list[str]]:
    """Adapter, plan and what is to be said of the base; nothing is written. Raises `UserError` for
    another base, a broken adapter and one that does not fit."""
    require_checkpoint(source, NAME)
    adapter = read_adapter(config.adapter.path)
    if adapter_digest(adapter.path) != config.adapter.digest:
        raise UserError(f"the adapter {adapter.path} changed meanwhile", "start again")
    trained_on = adapter.settings.base_model
    warnings = check_base(adapter.record, trained_on, source, force=config.force)
    return adapter, plan_merge(inspect(source.path), adapter, config.dtype), warnings


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Merge. Raises `UserError` when the base, the room or the proof is not right."""
    adapter, plan, warnings = prepare(source, config)
    require_free_bytes(out_dir, plan.size_bytes + _DISK_MARGIN_BYTES, "the merged model")
    try:
        _copy_rest(source, plan, out_dir)
        _write_weights(source.path, adapter, plan, out_dir)
    except OSError as error:
        raise UserError(
            f"the merged model cannot be written to {out_dir}: {error.strerror or error}",
            "free some space, or choose another folder with --out",
        ) from None
    peak_rss_bytes = _peak_rss_bytes()
    proof = _proof(source.path, adapter, out_dir, config)
    zeroed = keep_zeros(source.path, out_dir)  # after the proof: peft knows no masks
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.adapter.digest],
        versions={tool: version(tool) for tool in TOOLS},
        measurements={
            **measurements(inspect(out_dir)),
            "merged_layers": len(adapter.modules),
            "replaced_tensors": len(adapter.replaced),
            "untied_embeddings": plan.untied,
            "quantization_in_training": adapter.record.quantization if adapter.record else None,
            "base_proven": is_proven(adapter.record, source),
            "warnings": warnings,
            "verification": proof,
            "zeros_kept": zeroed,
            "merge_peak_rss_bytes": peak_rss_bytes,
        },
    )


def _copy_rest(source: Artifact, plan: MergePlan, out_dir: Path) -> None:
    """All files but weights and index; the config where it changes."""
    for name in source.files:
        if name in plan.shards or name == INDEX:
            continue
        (out_dir / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path / name, out_dir / name)
    if plan.config != inspect(source.path).config:
        write_json(out_dir / CONFIG, dict(plan.config))


def _write_weights(source: Path, adapter: Adapter, plan: MergePlan, out_dir: Path) -> None:
    with progress_bar("merging", unit="B", total=plan.size_bytes) as bar:
        for name, tensors in plan.shards.items():
            weights = adapter.path / WEIGHTS
            write_shard(out_dir / name, tensors, source / name, weights, bar.update)
    if (source / INDEX).is_file():
        weight_map = {t.name: shard for shard, tensors in plan.shards.items() for t in tensors}
        metadata = {"total_size": plan.size_bytes}
        write_json(out_dir / INDEX, {"metadata": metadata, "weight_map": weight_map})


def _peak_rss_bytes() -> int:
    """This process's peak resident memory so far. Linux's `ru_maxrss` would start with the peak of
    the process that spawned this one; VmHWM does not."""
    with contextlib.suppress(OSError, StopIteration):
        lines = Path("/proc/self/status").read_text("utf-8").splitlines()
        return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _RSS_UNIT_BYTES


def _proof(base: Path, adapter: Adapter, merged: Path, config: Config) -> dict[str, Any]:
    from toolchain.compress.verify_merge import verify_in_child

    if not config.verify:
        return {"status": "skipped", "reason": "switched off"}
    return verify_in_child(base, adapter.path, merged, trust_remote_code=config.trust_remote_code)
