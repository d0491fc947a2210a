"""Stage `sparsify`: weights of a checkpoint become zero, shapes stay.

hf → hf with `sparsity.json`, by which later stages know the zeros that they keep (`record.py`).
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.intake import FORMAT, measurements, require_checkpoint
from toolchain.compress.sparse.record import Sparsity, write_record, zeros_of
from toolchain.compress.sparse.schedule import targets
from toolchain.compress.sparse.settings import Sparsify
from toolchain.hf import idle_threads
from toolchain.stage import Input, StageConfig

if TYPE_CHECKING:
    from toolchain.checkpoint.info import CheckpointInfo
    from toolchain.compress.prune.calibration import Batch
    from toolchain.compress.prune.layout import Layout

NAME = "sparsify"
VERSION = 1
TOOLS = ("accelerate", "torch", "transformers")
DENSE = (
    "GGUF and ONNX store zeros like any other weight: neither the file nor decoding gains by them. "
    "A runtime with sparse kernels can (2:4 on NVIDIA GPUs from Ampere on)"
)
_PASS = ".pass"


class Config(StageConfig):
    """`text` is the calibration text; magnitude does not read it."""

    text: Input
    settings: Sparsify = Sparsify()
    trust_remote_code: bool = False


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Zero weights. Raises `UserError` when a pattern does not fit, the text is too short, values
    are not numbers or the architecture is not known."""
    from toolchain.compress.prune.layout import find_layout
    from toolchain.compress.sparse.linear import linear_weights, require_groups

    require_checkpoint(source, NAME)
    start, settings = time.perf_counter(), config.settings
    info = inspect(source.path)
    layout = find_layout(info)
    require_groups(info, layout, settings)
    batches = _batches(source, config)
    with idle_threads():
        _run_passes(source, info, layout, batches, settings, out_dir)
    names = tuple(linear_weights(info, layout))
    write_record(out_dir, Sparsity(names, settings.keep_masks, settings.pattern))
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.text.digest],
        versions={tool: version(tool) for tool in TOOLS},
        measurements={
            **measurements(inspect(out_dir)),
            **_figures(out_dir, names, info),
            "passes": [target.text() for target in targets(settings)],
            "calibration_tokens": sum(batch.tokens for batch in batches),
            "notes": [*_notes(info, names, batches, settings), DENSE],
            "wall_sec": round(time.perf_counter() - start, 3),
        },
    )


def _batches(source: Artifact, config: Config) -> list[Batch]:
    from toolchain.compress.prune.calibration import read_batches

    settings = config.settings
    if settings.method == "magnitude":
        return []
    return read_batches(
        config.text.path,
        source.path,
        settings.calibration_tokens,
        settings.seed,
        trust_remote_code=config.trust_remote_code,
    )


def _run_passes(
    source: Artifact,
    info: CheckpointInfo,
    layout: Layout,
    batches: Sequence[Batch],
    settings: Sparsify,
    out_dir: Path,
) -> None:
    """Each pass goes over what the pass before wrote."""
    from toolchain.compress.prune.write import write_checkpoint
    from toolchain.compress.sparse.layers import pruned_layers
    from toolchain.compress.sparse.tensors import OwnTensors

    passes = targets(settings)
    for number, target in enumerate(passes):
        last = number == len(passes) - 1
        folder = out_dir if last else out_dir / f"{_PASS}{number}"
        folder.mkdir(exist_ok=True)
        changed = pruned_layers(info, layout, batches, settings, target)
        write_checkpoint(source, info.config, OwnTensors(info, layout), changed, folder)
        if number:
            shutil.rmtree(out_dir / f"{_PASS}{number - 1}")
        if not last:
            info = inspect(folder)


def _figures(out_dir: Path, names: Sequence[str], before: CheckpointInfo) -> dict[str, Any]:
    """Zeros as they are in the file, and what its weights would take as a bitmap and the rest."""
    zeros, total = zeros_of(out_dir, frozenset(names))
    own = [tensor for tensor in before.tensors if tensor.name in set(names)]
    dense_bytes = sum(tensor.size_bytes for tensor in own)
    item_bytes = dense_bytes / total
    return {
        "zeros": zeros,
        "linear_weights": total,
        "zero_share": round(zeros / total, 6),
        "zero_share_of_all": round(zeros / before.parameters, 6),
        "linear_bytes": dense_bytes,
        "bitmap_bytes": round((total - zeros) * item_bytes + total / 8),
    }


def _notes(
    info: CheckpointInfo, names: Sequence[str], batches: Sequence[Batch], settings: Sparsify
) -> list[str]:
    tokens = sum(batch.tokens for batch in batches)
    widest = max(tensor.shape[-1] for tensor in info.tensors if tensor.name in set(names))
    if settings.method != "sparsegpt" or tokens >= 2 * widest:
        return []
    return [
        f"{tokens} calibration tokens are few for rows of {widest} weights: give more text, or "
        "take wanda"
    ]
