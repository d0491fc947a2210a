"""Write the cut checkpoint shard by shard: one layer's tensors are in memory at a time."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

import torch

from common.errors import UserError
from common.files import write_json
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import CONFIG, inspect
from toolchain.checkpoint.weights import INDEX, SINGLE
from toolchain.compress.sparse.record import RECORD

_SHARD_BYTES = 500_000_000  # held in memory
# By new layer number, None for what is outside the layers: the parameters that change.
Changes = Iterator[tuple[int | None, dict[str, torch.Tensor]]]
_TORCH = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class Tensors(Protocol):
    """The result's tensors: `names` in order, `layer_of` is None outside the layers; `read` gives
    float32, `dtype` what safetensors calls the type to store."""

    names: list[str]
    layer_of: dict[str, int | None]

    def read(self, name: str) -> torch.Tensor: ...

    def dtype(self, name: str) -> str: ...


def write_checkpoint(
    source: Artifact,
    config: Mapping[str, Any],
    tensors: Tensors,
    changed: Changes,
    out_dir: Path,
) -> None:
    """Everything but the weights as it was, the config, and the weights. `changed` gives each new
    layer's recovered parameters, in order, then those outside the layers; it may end early. Raises
    `UserError` when there is no room."""
    try:
        _copy_rest(source, out_dir)
        write_json(out_dir / CONFIG, dict(config))
        _write_shards(_in_order(tensors, changed), out_dir)
    except OSError as error:
        raise UserError(
            f"the pruned model cannot be written to {out_dir}: {error.strerror or error}",
            "free some space, or choose another folder with --out",
        ) from None


def _in_order(tensors: Tensors, changed: Changes) -> Iterator[tuple[str, torch.Tensor]]:
    """All tensors: layer by layer, then those outside the layers."""
    layers = sorted({layer for layer in tensors.layer_of.values() if layer is not None})
    for layer in (*layers, None):
        _, own = next(changed, (layer, {}))
        for name in (name for name in tensors.names if tensors.layer_of[name] == layer):
            value = own[name] if name in own else tensors.read(name)
            yield name, _stored(tensors, name, value)


def _stored(tensors: Tensors, name: str, value: torch.Tensor) -> torch.Tensor:
    kind = _TORCH.get(tensors.dtype(name))
    stored = value.to(getattr(torch, kind)) if kind else value
    if not bool(torch.isfinite(stored).all()):
        raise UserError(
            f"{name} would hold values that are not numbers",
            "the weights hold NaN or overflow: check them",
        )
    return stored


def _write_shards(tensors: Iterator[tuple[str, torch.Tensor]], out_dir: Path) -> None:
    from safetensors.torch import save_file

    shards: list[list[str]] = []
    held: dict[str, torch.Tensor] = {}
    total = held_bytes = 0

    def save() -> None:
        path = out_dir / f"shard-{len(shards)}"
        save_file(held, path, metadata={"format": "pt"})
        shards.append(list(held))
        held.clear()

    for name, tensor in tensors:
        if held and held_bytes + tensor.nbytes > _SHARD_BYTES:
            save()
            held_bytes = 0
        held[name] = tensor.contiguous()
        held_bytes += tensor.nbytes
        total += tensor.nbytes
    save()
    names = [
        SINGLE if len(shards) == 1 else f"model-{n + 1:05d}-of-{len(shards):05d}.safetensors"
        for n in range(len(shards))
    ]
    for number, name in enumerate(names):
        (out_dir / f"shard-{number}").replace(out_dir / name)
    if len(shards) > 1:
        where = {tensor: name for name, own in zip(names, shards, strict=True) for tensor in own}
        write_json(out_dir / INDEX, {"metadata": {"total_size": total}, "weight_map": where})


def _copy_rest(source: Artifact, out_dir: Path) -> None:
    weights = {path.name for path in inspect(source.path).weight_files}
    for name in source.files:
        if name in weights or name in (INDEX, CONFIG, RECORD):  # zeros kept before may be filled
            continue
        (out_dir / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source.path / name, out_dir / name)
