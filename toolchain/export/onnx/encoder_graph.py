"""Tidy an exported encoder's graph and store it: small, reproducible, fast to run.

Two things are left out on purpose, since onnxruntime 1.31 runs their fused form slower on CPUs than
the plain one (measured in docs/onnx-encoders.md): shapes of inner tensors, which lead it to
SkipLayerNormalization, and the fused Attention of its transformer optimizer.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

EXTERNAL_DATA_FROM_BYTES = 1_500_000_000
EXTERNAL_SUFFIX = ".data"


def tidy(model: Any) -> Any:
    """The model with every Gemm as MatMul and Add, and without documentation, inner shapes and
    metadata; changed in place."""
    from onnxruntime.quantization.onnx_model import ONNXModel

    wrapped = ONNXModel(model)
    wrapped.replace_gemm_with_matmul()
    wrapped.remove_unused_constant()
    strip(wrapped.model)
    return wrapped.model


def strip(model: Any) -> None:
    """Take out what says nothing of the computation: inner shapes, documentation, metadata."""
    del model.graph.value_info[:]
    del model.metadata_props[:]
    model.doc_string = model.graph.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for tensor in model.graph.initializer:
        tensor.doc_string = ""


def save(model: Any, file: Path) -> None:
    """Write the model; past 1.5 GB its weights go to one file beside it (protobuf ends at 2)."""
    import onnx

    strip(model)
    large = model.ByteSize() > EXTERNAL_DATA_FROM_BYTES
    if large:
        onnx.save_model(
            model,
            str(file),
            save_as_external_data=True,
            all_tensors_to_one_file=True,
            location=file.name + EXTERNAL_SUFFIX,
        )
    else:
        onnx.save_model(model, str(file))


def weight_matmuls(model: Any) -> tuple[str, ...]:
    """Names of the MatMul nodes with a constant weight matrix: what quantization acts on."""
    constants = {tensor.name for tensor in model.graph.initializer}
    return tuple(
        node.name
        for node in model.graph.node
        if node.op_type == "MatMul" and node.input[1] in constants
    )
