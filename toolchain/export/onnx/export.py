"""Stage `onnx-export`: a decoder's checkpoint to a float32 ONNX graph with a KV cache.

onnxruntime-genai's model builder writes the fastest graph (GroupQueryAttention, merged QKV, one
buffer for past and present). Where it or its kernels lack something, torch.onnx.export does. Both
run in a process of their own; the files are the same whenever they are made again.

    hf → onnx: model.onnx [+ model.onnx.data], genai_config.json (builder), config and tokenizer
"""

from __future__ import annotations

import json
import shutil
import tempfile
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from common.errors import UserError
from common.files import require_free_bytes
from common.scratch import ScratchFolder
from runtimes.ort_graph import GENAI_CONFIG, metadata_properties
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.intake import SMALL_FILES, require_checkpoint
from toolchain.child import Outcome
from toolchain.export.onnx.exporter_process import last_words, run_exporter
from toolchain.export.onnx.graph_file import (
    DATA,
    EXTERNAL_LIMIT_BYTES,
    EXTERNAL_OVER_BYTES,
    GRAPH,
    graph_bytes,
    load_graph,
    save_graph,
    write_properties,
)
from toolchain.export.onnx.obstacles import (
    builder_architectures,
    builder_obstacles,
    require_exportable,
)
from toolchain.stage import StageConfig

NAME = "onnx-export"
VERSION = 2
TOOLS = ("onnx", "onnxruntime-genai", "torch", "transformers")
FORMAT = "onnx"
_BUILDER = "onnxruntime_genai.models.builder"
# Layers with a sliding window would keep caches of another, fixed length.
_BUILDER_OPTIONS = ("windowed_kv_cache=false",)
_DRIVER = "toolchain.export.onnx.torch_driver"
_METHODS = ("torchscript", "dynamo")
_HEADER_BYTES = 20_000_000


class Config(StageConfig):
    """`exporter` auto takes the builder unless something is known to keep it from the checkpoint,
    and torch when the builder fails. Tensors lie in a file of their own when they take more than
    `external_over_bytes`; the builder's always do."""

    exporter: Literal["auto", "builder", "torch"] = "auto"
    external_over_bytes: int = Field(EXTERNAL_OVER_BYTES, ge=0, le=EXTERNAL_LIMIT_BYTES)
    trust_remote_code: bool = False


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Export. Raises `UserError` when no exporter can, with what each of them said."""
    require_checkpoint(source, NAME)
    info = inspect(source.path)
    require_exportable(info)
    # The torch exporter's own file and ours lie side by side for a moment.
    require_free_bytes(out_dir, 2 * 4 * info.parameters + _HEADER_BYTES, "the ONNX files")
    tried: list[dict[str, str]] = []
    outcome, exporter = _export(info, config, out_dir, tried)
    copy_companions(source.path, out_dir)
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest],
        versions={name: version(name) for name in TOOLS},
        measurements={
            "exporter": exporter,
            "tried": tried,
            "precision": "FP32",
            "size_bytes": graph_bytes(out_dir),
            "wall_sec": round(outcome.wall_sec, 3),
            "peak_rss_bytes": outcome.peak_rss_bytes,
        },
    )


def copy_companions(source: Path, out_dir: Path) -> None:
    """Config, generation config, tokenizer and licence as the source has them; the builder's own
    copies hold traces of the machine."""
    patterns = [pattern for pattern in SMALL_FILES if pattern != "README.md"]
    for path in sorted(source.iterdir()):
        if path.is_file() and any(fnmatch(path.name, pattern) for pattern in patterns):
            shutil.copyfile(path, out_dir / path.name)


def _export(
    info: CheckpointInfo, config: Config, out_dir: Path, tried: list[dict[str, str]]
) -> tuple[Outcome, str]:
    """The exporter that worked; what kept the others is added to `tried`."""
    if config.exporter != "torch":
        reasons = builder_obstacles(info, trust_remote_code=config.trust_remote_code)
        if not reasons:
            outcome = _build(info, config, out_dir)
            if outcome.code == 0 and (out_dir / GRAPH).is_file():
                return outcome, "builder"
            reasons = [last_words(outcome)]
        tried.append({"exporter": "builder", "reason": "; ".join(reasons)})
    if config.exporter != "builder":
        for method in _METHODS:
            outcome = _torch(info, config, method, out_dir)
            if outcome.code == 0 and (out_dir / GRAPH).is_file():
                return outcome, f"torch ({method})"
            tried.append({"exporter": f"torch ({method})", "reason": last_words(outcome)})
    known = ", ".join(sorted(builder_architectures()))
    raise UserError(
        f"{info.architecture} cannot be exported to ONNX",
        f"export GGUF instead, or a checkpoint of an architecture that the builder knows: {known}",
        details=[f"{row['exporter']}: {row['reason']}" for row in tried],
    )


def _build(info: CheckpointInfo, config: Config, out_dir: Path) -> Outcome:
    """The builder's float32 graph for CPUs, and of its other files the one that genai needs."""
    with tempfile.TemporaryDirectory(dir=out_dir, prefix=".builder-") as folder:
        made, cache = Path(folder, "out"), Path(folder, "cache")
        arguments = ["-i", str(info.path), "-o", str(made), "-p", "fp32", "-e", "cpu"]
        arguments += ["-c", str(cache), "--extra_options", *_BUILDER_OPTIONS]
        outcome = run_exporter(_BUILDER, arguments)
        if outcome.code != 0 or not (made / GRAPH).is_file():
            return outcome
        inline = 4 * info.parameters <= config.external_over_bytes
        model = load_graph(made / GRAPH, weights=inline)
        write_properties(model, metadata_properties("right", shared_cache=True, last_only=False))
        save_graph(model, out_dir, config.external_over_bytes)
        if not inline:
            (made / DATA).rename(out_dir / DATA)
        (made / GENAI_CONFIG).rename(out_dir / GENAI_CONFIG)
    return outcome


def _torch(info: CheckpointInfo, config: Config, method: str, out_dir: Path) -> Outcome:
    request: dict[str, Any] = {
        "checkpoint": str(info.path),
        "out": str(out_dir),
        "method": method,
        "trust_remote_code": config.trust_remote_code,
        "external_over_bytes": config.external_over_bytes,
    }
    with ScratchFolder("onnx") as folder:
        file = Path(folder) / "request.json"
        file.write_text(json.dumps(request), encoding="utf-8")
        return run_exporter(_DRIVER, [str(file)])
