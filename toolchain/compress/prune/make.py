"""A cut as a checkpoint: config, tensors, recovery and files, one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from toolchain.artifact import Artifact
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.calibration import Batch
from toolchain.compress.prune.config import per_layer_config, sized_config
from toolchain.compress.prune.cut import Cut, require_known
from toolchain.compress.prune.layout import Layout
from toolchain.compress.prune.per_layer import width_lists
from toolchain.compress.prune.recover import recover
from toolchain.compress.prune.shape import places
from toolchain.compress.prune.tensors import CutTensors
from toolchain.compress.prune.write import Changes, write_checkpoint
from toolchain.hf import idle_threads


def make_checkpoint(
    source: Artifact,
    info: CheckpointInfo,
    layout: Layout,
    cut: Cut,
    fitted_on: Sequence[Batch],
    out_dir: Path,
) -> None:
    """Write what the cut leaves of `source`, recovered on the batches where there are some. Raises
    `UserError` when a tensor that the layout does not know would have to change."""
    require_known(places(info, layout), cut)
    config = sized_config(info, layout, cut.shape, cut.layers)
    if widths := width_lists(cut):
        config = per_layer_config(config, widths, cut.original.groups)
    tensors = CutTensors(info, layout, cut)
    changed: Changes = iter(())
    if fitted_on:
        changed = recover(info, layout, cut, tensors, config, fitted_on)
    out_dir.mkdir(exist_ok=True)
    with idle_threads():  # recovery computes while the layers are written
        write_checkpoint(source, config, tensors, changed, out_dir)
