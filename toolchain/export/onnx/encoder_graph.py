"""Tidy an exported encoder's graph and store it: small, reproducible, fast to run.

Two things are left out on purpose, since onnxruntime 1.31 runs their fused form slower on CPUs than
the plain one (measured in docs/onnx-encoders.md): shapes of inner tensors, which lead it to
SkipLayerNormalization, and the fused Attention of its transformer optimizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from toolchain.export.onnx.graph_file import EXTERNAL_LIMIT_BYTES, save_graph


def tidy(model: Any) -> Any:
    """The model with every Gemm as MatMul and Add; changed in place."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    wrapped = ONNXModel(model)
    wrapped.replace_gemm_with_matmul()
    wrapped.remove_unused_constant()
    return wrapped.model


def save(model: Any, folder: Path) -> Path:
    """Write `model.onnx` without inner shapes, documentation and metadata; past 1.5 GB its weights
    go to one file beside it (protobuf ends at 2)."""
    del model.metadata_props[:]
    return save_graph(model, folder, EXTERNAL_LIMIT_BYTES)


def weight_matmuls(model: Any) -> tuple[str, ...]:
    """Names of the MatMul nodes with a constant weight matrix: what quantization acts on."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in constants
    )


def drop_unused(graph: Any) -> None:
    """Remove nodes whose outputs nobody reads, and then initializers likewise."""
    kept = {output.name for output in graph.output}
    alive = []
    for node in reversed(graph.node):
        if any(name in kept for name in node.output):
            alive.append(node)
            kept.update(name for name in node.input if name)
    nodes = [_copy(node) for node in reversed(alive)]
    tensors = [_copy(tensor) for tensor in graph.initializer if tensor.name in kept]
    del graph.node[:]
    del graph.initializer[:]
    graph.node.extend(nodes)
    graph.initializer.extend(tensors)


def _copy(message: Any) -> Any:
    twin = type(message)()
    twin.CopyFrom(message)
    return twin
