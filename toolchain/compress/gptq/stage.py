"""Stage `gptq`: a checkpoint's weights are rounded into the blocks of its GGUF by calibration.

hf → hf in float32 whose weights are the values of blocks, with the blocks beside them
(`toolchain.compress.exact.sidecar`), which the export writes and proves bit by bit.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from pydantic import Field

from common.errors import UserError
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.intake import FORMAT, measurements, require_checkpoint
from toolchain.compress.gptq.settings import Gptq
from toolchain.hf import idle_threads
from toolchain.stage import Input, StageConfig

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from toolchain.checkpoint.info import CheckpointInfo
    from toolchain.compress.exact.settings import ExactPlan
    from toolchain.compress.prune.calibration import Batch
    from toolchain.compress.prune.layout import Layout

NAME = "gptq"
VERSION = 1
TOOLS = ("accelerate", "llama-cpp-python", "torch", "transformers")
_STORED = "F32"  # bfloat16 and float16 cannot hold every value of a block

Blocks = dict[str, "NDArray[np.uint8]"]
Changed = Iterator[tuple[int | None, dict[str, "torch.Tensor"]]]


class Config(StageConfig):
    """`text` is the calibration text; `tensor_types` and `pure` are the export's, or with `mixed`
    types chosen for each tensor. With `layers_only` embedding and head stay as they are (ONNX keeps
    them in 8 bits)."""

    text: Input
    settings: Gptq = Gptq()
    tensor_types: dict[str, str] = Field(default_factory=dict)
    pure: bool = False
    layers_only: bool = False
    mixed: bool = False
    trust_remote_code: bool = False


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Round. Raises `UserError` for a type without blocks, an architecture that is not known, text
    that is too short and values that are not numbers."""
    from toolchain.compress.exact.plan import block_plan
    from toolchain.compress.exact.sidecar import Exact, write_exact
    from toolchain.compress.prune.calibration import read_batches
    from toolchain.compress.prune.layout import find_layout
    from toolchain.compress.prune.write import write_checkpoint
    from toolchain.compress.sparse.linear import linear_weights
    from toolchain.compress.sparse.tensors import OwnTensors, float32_config

    require_checkpoint(source, NAME)
    start, settings, trust = time.perf_counter(), config.settings, config.trust_remote_code
    info = inspect(source.path)
    layout = find_layout(info)
    plan = block_plan(
        source,
        NAME,
        settings.quantization,
        tensor_types=config.tensor_types,
        pure=config.pure,
        layers_only=config.layers_only,
        trust_remote_code=trust,
    ).model_copy(update={"mixed": config.mixed})
    batches = read_batches(
        config.text.path,
        source.path,
        settings.calibration_tokens,
        settings.seed,
        trust_remote_code=trust,
    )
    tensors = OwnTensors(info, layout, _STORED)
    blocks: Blocks = {}
    with idle_threads():
        changed = _changed(info, layout, batches, plan, settings.damping, blocks)
        write_checkpoint(source, float32_config(info.config), tensors, changed, out_dir)
    write_exact(out_dir, Exact(plan, blocks))
    own = set(linear_weights(info, layout))
    tokens = sum(batch.tokens for batch in batches)
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.text.digest],
        versions={tool: version(tool) for tool in TOOLS},
        measurements={
            **measurements(inspect(out_dir)),
            "quantization": plan.label,
            "rounded_tensors": len(own & set(blocks)),
            "nearest_tensors": len(set(blocks) - own),
            "calibration_tokens": tokens,
            "notes": _notes(info, own, tokens),
            "wall_sec": round(time.perf_counter() - start, 3),
        },
    )


def _changed(
    info: CheckpointInfo,
    layout: Layout,
    batches: Sequence[Batch],
    plan: ExactPlan,
    damping: float,
    blocks: Blocks,
) -> Changed:
    """The values of each layer's blocks, then of those outside the layers, which are the nearest;
    the blocks themselves go into `blocks`."""
    from runtimes.ggml_blocks import quantize_rows
    from toolchain.compress.gptq.layers import rounded_layers
    from toolchain.compress.prune.paged import reader

    for layer, own in rounded_layers(info, layout, batches, plan.types, damping):
        blocks.update(own)
        yield layer, _values(own, plan.types)
    names = {tensor.name for tensor in info.tensors}
    read = reader(info)
    rest = {
        name: quantize_rows(read(name).numpy(), kind)
        for name, kind in plan.types.items()
        if name not in blocks and name in names
    }
    blocks.update(rest)
    if missing := set(plan.types) - set(blocks):
        raise UserError(
            f"{min(missing)} is in the network, but not in the checkpoint under this name",
            "save the checkpoint anew with transformers' save_pretrained",
        )
    yield None, _values(rest, plan.types)


def _values(blocks: Blocks, types: Mapping[str, str]) -> dict[str, torch.Tensor]:
    import torch

    from runtimes.ggml_blocks import columns_of, dequantize_rows

    return {
        name: torch.from_numpy(
            dequantize_rows(rows, types[name], columns_of(types[name], rows.shape[1]))
        )
        for name, rows in blocks.items()
    }


def _notes(info: CheckpointInfo, own: set[str], tokens: int) -> list[str]:
    widest = max(tensor.shape[-1] for tensor in info.tensors if tensor.name in own)
    if tokens >= 2 * widest:
        return []
    return [f"{tokens} calibration tokens are few for rows of {widest} weights: give more text"]
