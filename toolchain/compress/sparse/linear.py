"""Which weights zeros go into, and whether a pattern divides their rows."""

from __future__ import annotations

from common.errors import UserError
from toolchain.checkpoint.info import CheckpointInfo, TensorHeader
from toolchain.compress.prune.layout import Layout, Place
from toolchain.compress.prune.shape import places
from toolchain.compress.sparse.settings import Sparsify


def linear_weights(info: CheckpointInfo, layout: Layout) -> dict[str, Place]:
    """Weights of the linear modules inside the layers, layer by layer. Raises `UserError` when
    there are none."""
    found = {
        name: place
        for name, place in places(info, layout).items()
        if place.layer is not None and place.axes is not None and len(place.axes) == 2
    }
    if not found:
        raise UserError(f"{info.path} has no linear modules in its layers")
    return dict(sorted(found.items(), key=lambda item: item[1].layer or 0))


def require_groups(info: CheckpointInfo, layout: Layout, settings: Sparsify) -> None:
    """Raise a `UserError` that names the tensors whose rows a pattern does not divide."""
    if settings.group is None:
        return
    own, size = linear_weights(info, layout), settings.group[1]
    faults = [t for t in info.tensors if t.name in own and t.shape[-1] % size]
    if faults:
        raise UserError(
            f"pattern {settings.pattern} does not fit: rows of {faults[0].name} have "
            f"{faults[0].shape[-1]} weights, not a multiple of {size} ({len(faults)} tensors)",
            f"take another pattern, or sparsity: {settings.share:g}",
            details=[_row(tensor) for tensor in faults[1:10]],
        )


def _row(tensor: TensorHeader) -> str:
    return f"{tensor.name}: {list(tensor.shape)}"
