"""Stage `onnx-quantize`: a decoder's float32 ONNX graph to one of the known variants.

    onnx (FP32) → onnx (INT8 or INT4): model.onnx [+ model.onnx.data], the other files as they are

Weights are rounded to the nearest step, nothing is calibrated; `onnx-smooth` runs before where it
helps. See `toolchain.export.onnx.variants` for what the variants do and `docs/onnx.md` for figures.
"""

from __future__ import annotations

import shutil
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from common.errors import UserError
from common.files import read_json, require_free_bytes
from runtimes.ort_graph import METADATA_PREFIX
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.export.onnx import variants
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
from toolchain.export.onnx.int8_graph import Int8Graph
from toolchain.export.onnx.variants import Variant
from toolchain.export.onnx.whole_attention import whole_attention
from toolchain.stage import StageConfig

NAME = "onnx-quantize"
VERSION = 1
TOOLS = ("numpy", "onnx")
FORMAT = "onnx"
# What attention over a whole prompt as long as the context may take for its scores.
_WHOLE_ATTENTION_BYTES = 300_000_000


class Config(StageConfig):
    """`variant` is a row of `toolchain.export.onnx.variants`. `reduce_range` keeps dynamic weights
    to 7 bits, for x86 CPUs without VNNI (`runtimes.cpu_int8.int8_support` tells)."""

    variant: str = "int8-mixed"
    reduce_range: bool = False
    external_over_bytes: int = Field(EXTERNAL_OVER_BYTES, ge=0, le=EXTERNAL_LIMIT_BYTES)

    @field_validator("variant")
    @classmethod
    def _known(cls, name: str) -> str:
        return variants.variant(name).name


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Quantize. Raises `UserError` when the source is no float32 decoder, or its files are broken.

    Weights that stay in float32 are named in the measurements and on standard error.
    """
    if source.format != FORMAT or source.measurements.get("precision", "FP32") != "FP32":
        raise UserError(f"{NAME} takes a float32 ONNX decoder", "quantize what onnx-export made")
    float32_bytes = graph_bytes(source.path)
    require_free_bytes(out_dir, float32_bytes // 2, "the quantized model")
    start = time.perf_counter()
    graph = Int8Graph(load_graph(source.path / GRAPH))
    quantize_graph(graph, variants.variant(config.variant), source.path, config.reduce_range)
    save_graph(graph.finish(), out_dir, config.external_over_bytes)
    left = graph.large_float32_weights()
    for name in source.files:
        if name not in (GRAPH, DATA):
            (out_dir / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path / name, out_dir / name)
    size_bytes = graph_bytes(out_dir)
    if left:
        print(f"WARNING: {len(left)} weights stay in FP32: {', '.join(left)}", file=sys.stderr)
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest],
        versions={name: version(name) for name in TOOLS},
        measurements={
            "precision": "INT4" if variants.variant(config.variant).layers == "block4" else "INT8",
            "quantization": config.variant,
            "size_bytes": size_bytes,
            "size_of_fp32": round(size_bytes / float32_bytes, 4),
            "nodes": {kind: len(nodes) for kind, nodes in sorted(graph.done.items())},
            "float32_weights": left,
            "wall_sec": round(time.perf_counter() - start, 3),
        },
    )


def quantize_graph(graph: Int8Graph, variant: Variant, folder: Path, reduce_range: bool) -> None:
    """Rewrite the graph; `graph.finish()` is still to be called.

    `folder` holds the model's config. Raises `UserError` when there is no output head.
    """
    head = graph.head
    if head is None:
        raise UserError("the ONNX graph has no output head with a constant weight")
    hidden = graph.weight(head).shape[0]
    tied = graph.shares_embedding(head)
    for node in graph.layers():
        if variant.layers == "block4":
            graph.to_blocks4(node)
        elif variant.layers == "block":
            graph.to_blocks(node, variant.block_size)
        else:
            rows, columns = graph.weight(node).shape
            narrows = variant.per_row and columns == hidden and rows > columns
            graph.to_dynamic(node, per_row=narrows, reduce_range=reduce_range)
    if variant.last_position:
        graph.last_position()
    head = graph.head
    assert head is not None  # it was there, and layers alone were rewritten
    packed = (
        graph.to_blocks(head, variant.block_size)
        if variant.head == "block"
        else graph.to_dynamic(head, reduce_range=reduce_range)
    )
    if variant.int8_embedding:
        graph.embedding_int8(packed if tied else None)
    if variant.whole_attention and _fits_whole_attention(folder):
        whole_attention(graph.model, graph.add)
    last = "last" if variant.last_position else "all"
    write_properties(graph.model, {f"{METADATA_PREFIX}logits": last})


def _fits_whole_attention(folder: Path) -> bool:
    """Whether scores of all heads over the whole context are small enough to hold at once."""
    path = folder / "config.json"
    config: dict[str, Any] = read_json(path) if path.is_file() else {}
    heads, context = config.get("num_attention_heads"), config.get("max_position_embeddings")
    if not isinstance(heads, int) or not isinstance(context, int):
        return False
    return 4 * heads * context * context <= _WHOLE_ATTENTION_BYTES
