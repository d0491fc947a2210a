"""The ONNX files of a checkpoint, built by the stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.pipeline import Workspace


def fp32(kind: str, source: Artifact, workspace: Workspace, say: Callable[[str], None]) -> Path:
    """Folder of the FP32 export."""
    return _exported(kind, source, workspace, say).path


def int8(kind: str, source: Artifact, workspace: Workspace, say: Callable[[str], None]) -> Path:
    """Folder of the INT8 file in the stage's first variant; a bundle's may be another, chosen by
    measurement."""
    from runtimes.cpu_int8 import int8_support
    from toolchain.pipeline import run_stage

    exported = _exported(kind, source, workspace, say)
    reduce_range = int8_support().reduce_range
    if kind == "decoder":
        from toolchain.export.onnx import quantize

        config = quantize.Config(reduce_range=reduce_range)
        return run_stage(quantize, exported, config, workspace, say).path
    from toolchain.export.onnx import encoder_quantize

    dynamic = encoder_quantize.Config(variant="int8-dynamic", reduce_range=reduce_range)
    return run_stage(encoder_quantize, exported, dynamic, workspace, say).path


def computes_all_logits(file: Path) -> bool:
    """Whether a decoder's graph gives the logits of every prompt token. Raises `UserError` when
    the file is damaged."""
    from runtimes.ort_graph import METADATA_PREFIX
    from toolchain.export.onnx.graph_file import load_graph

    properties = load_graph(file, weights=False).metadata_props
    return all(p.value != "last" for p in properties if p.key == f"{METADATA_PREFIX}logits")


def _exported(
    kind: str, source: Artifact, workspace: Workspace, say: Callable[[str], None]
) -> Artifact:
    from toolchain.pipeline import run_stage

    if kind == "decoder":
        from toolchain.export.onnx import export

        return run_stage(export, source, export.Config(), workspace, say)
    from toolchain.export.onnx import encoder_export

    config = encoder_export.config_for(source.path)
    return run_stage(encoder_export, source, config, workspace, say)
