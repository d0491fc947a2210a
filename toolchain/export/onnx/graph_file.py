"""Read and write ONNX models so that the same graph always gives the same bytes.

Tensors lie in one file beside the graph (`model.onnx.data`) once they are large: protobuf ends at
2 GB, and a session maps such a file instead of copying it.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from runtimes.onnx_file import read_model
from runtimes.ort import model_bytes

if TYPE_CHECKING:
    from onnx import ModelProto

GRAPH, DATA = "model.onnx", "model.onnx.data"
EXTERNAL_OVER_BYTES = 100_000_000
EXTERNAL_LIMIT_BYTES = 1_500_000_000
_SMALL_TENSOR_BYTES = 1024


def load_graph(file: Path, *, weights: bool = True) -> ModelProto:
    """`runtimes.onnx_file.read_model`, for the graphs of artifacts."""
    return read_model(file, weights=weights)


def save_graph(model: ModelProto, folder: Path, external_over_bytes: int) -> Path:
    """Write `model.onnx` and, when its tensors take more than so many bytes, `model.onnx.data`.

    Tensors that were not loaded stay references to the file that holds them.
    """
    import onnx

    strip(model)
    external = sum(tensor.ByteSize() for tensor in model.graph.initializer) > external_over_bytes
    onnx.save(
        model,
        folder / GRAPH,
        save_as_external_data=external,
        location=DATA,
        size_threshold=_SMALL_TENSOR_BYTES,
    )
    return folder / GRAPH


def strip(model: ModelProto) -> None:
    """Drop what depends on the exporting machine and run: doc strings with source paths, stack
    traces in metadata, and shapes of inner values, which quantizers take amiss when outdated."""
    model.doc_string = ""
    model.graph.doc_string = ""
    del model.graph.value_info[:]
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    for value in (*model.graph.input, *model.graph.output, *model.graph.initializer):
        value.doc_string = ""
        del value.metadata_props[:]


def write_properties(model: ModelProto, properties: Mapping[str, str]) -> None:
    """Set metadata properties; those of other names stay."""
    kept = {p.key: p.value for p in model.metadata_props if p.key not in properties}
    del model.metadata_props[:]
    for key, value in (*kept.items(), *sorted(properties.items())):
        model.metadata_props.add(key=key, value=value)


def graph_bytes(folder: Path) -> int:
    """Bytes of graph and tensors."""
    return model_bytes(folder / GRAPH)
