"""The ONNX files of a checkpoint, built by the stages."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.pipeline import Workspace


def fp32(kind: str, source: Artifact, workspace: Workspace, say: Callable[[str], None]) -> Path:
    """Folder of the FP32 export."""
    return _exported(kind, source, workspace, say).path


def int8(kind: str, source: Artifact, workspace: Workspace, say: Callable[[str], None]) -> Path:
    """Folder of the INT8 file that the stage makes by default."""
    from toolchain.pipeline import run_stage

    if kind == "decoder":
        raise UserError("no INT8 file was given", "give --bundle or --int8")
    from runtimes.host import read_host
    from runtimes.int8_cpu import needs_reduced_range
    from toolchain.export.onnx import encoder_quantize

    host = read_host()
    config = encoder_quantize.Config(
        variant="int8-dynamic", reduce_range=needs_reduced_range(host.arch, host.instructions)
    )
    exported = _exported(kind, source, workspace, say)
    return run_stage(encoder_quantize, exported, config, workspace, say).path


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
