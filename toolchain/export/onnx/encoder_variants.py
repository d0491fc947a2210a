"""The INT8 forms of an encoder's graph, by onnxruntime's quantizers: one table.

`int8-dynamic` weights per channel, activations when they are computed; `int8-block` weights in
blocks of 128, activations when they are computed, closest to FP32; `int8-static` activations by
ranges from calibration texts. Only products with constant weights are quantized, and embeddings
where the variant can. Measured figures: docs/onnx-encoders.md.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.scratch import ScratchFolder
from toolchain.export.onnx.encoder_graph import drop_unused

BLOCK = 128
# Activations are quantized to INT8 too; without it the product runs in FP32 and slower than FP32.
_ACCURACY_LEVEL_INT8 = 4
_FLOAT = 1  # onnx.TensorProto.FLOAT


@dataclass(frozen=True)
class Request:
    """What a variant is given: the FP32 model, nodes that stay in FP32, and settings.
    `batches` are the calibration inputs of variants that need them."""

    model: Any
    exclude: Sequence[str]
    embeddings: bool
    reduce_range: bool
    batches: Sequence[Mapping[str, Any]] = ()

    @property
    def op_types(self) -> list[str]:
        return ["MatMul", "Gather"] if self.embeddings else ["MatMul"]


@dataclass(frozen=True)
class Variant:
    """How it is made, and what it takes. `embeddings`: whether it quantizes those too."""

    make: Callable[[Request], Any]
    needs_calibration: bool
    embeddings: bool
    reduce_range: bool


def _dynamic(request: Request) -> Any:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    def write(file: Path) -> None:
        quantize_dynamic(
            request.model,
            str(file),
            op_types_to_quantize=request.op_types,
            per_channel=True,
            reduce_range=request.reduce_range,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(request.exclude),
            use_external_data_format=_is_large(request.model),
            # The type of tensors whose shape inference fails, as in fused graphs.
            extra_options={"DefaultTensorType": _FLOAT, "MatMulConstBOnly": True},
        )

    return _written(write)


def _block(request: Request) -> Any:
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        request.model,
        bits=8,
        block_size=BLOCK,
        is_symmetric=True,
        accuracy_level=_ACCURACY_LEVEL_INT8,
        nodes_to_exclude=list(request.exclude),
        op_types_to_quantize=("MatMul",),
    )
    with _quiet():
        quantizer.process()
    return quantizer.model.model


def _static(request: Request) -> Any:
    from onnxruntime.quantization import CalibrationDataReader, QuantType, quantize_static

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self._rest: Iterator[Mapping[str, Any]] = iter(request.batches)

        def get_next(self) -> Any:
            return next(self._rest, None)

    def write(file: Path) -> None:
        quantize_static(
            request.model,
            str(file),
            Reader(),
            op_types_to_quantize=request.op_types,
            per_channel=True,
            reduce_range=request.reduce_range,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType.QInt8,
            nodes_to_exclude=list(request.exclude),
            use_external_data_format=_is_large(request.model),
            extra_options={
                "DefaultTensorType": _FLOAT,
                "MatMulConstBOnly": True,
                "OpTypesToExcludeOutputQuantization": request.op_types,
            },
        )

    return _rounded_for_products_only(_written(write))


def _rounded_for_products_only(model: Any) -> Any:
    """Let only quantized products read rounded activations, in place.

    onnxruntime's quantizer gives the rounded tensor to every reader, so that the residual stream is
    rounded at each layer as well: much accuracy for no speed.
    """
    constants = {tensor.name for tensor in model.graph.initializer}
    nodes = model.graph.node
    rounded = {node.output[0]: node.input[0] for node in nodes if node.op_type == "QuantizeLinear"}
    weights: set[str] = set()
    activations: dict[str, str] = {}
    for node in nodes:
        if node.op_type == "DequantizeLinear":
            if node.input[0] in constants:
                weights.add(node.output[0])
            elif node.input[0] in rounded:
                activations[node.output[0]] = rounded[node.input[0]]
    for node in nodes:
        if not (node.op_type == "MatMul" and node.input[1] in weights):
            for position, name in enumerate(node.input):
                if name in activations:
                    node.input[position] = activations[name]
    drop_unused(model.graph)
    return model


VARIANTS: Mapping[str, Variant] = {
    "int8-dynamic": Variant(_dynamic, needs_calibration=False, embeddings=True, reduce_range=True),
    "int8-block": Variant(_block, needs_calibration=False, embeddings=False, reduce_range=False),
    "int8-static": Variant(_static, needs_calibration=True, embeddings=False, reduce_range=True),
}


def quantizable_nodes(model: Any, *, embeddings: bool) -> tuple[str, ...]:
    """Names of the nodes that quantization acts on: MatMul with constant weights and, with
    `embeddings`, Gather from a constant table."""
    tables = {
        tensor.name
        for tensor in model.graph.initializer
        if tensor.data_type == _FLOAT and len(tensor.dims) == 2
    }
    places = {"MatMul": 1, **({"Gather": 0} if embeddings else {})}
    return tuple(
        node.name
        for node in model.graph.node
        if node.op_type in places and node.input[places[node.op_type]] in tables
    )


def _is_large(model: Any) -> bool:
    from toolchain.export.onnx.graph_file import EXTERNAL_LIMIT_BYTES

    return bool(model.ByteSize() > EXTERNAL_LIMIT_BYTES)


def _written(write: Callable[[Path], None]) -> Any:
    """The model that `write` leaves in a file of a temporary folder."""
    import onnx

    with ScratchFolder("quantize") as folder, _quiet():
        file = Path(folder, "model.onnx")
        write(file)
        return onnx.load(str(file))


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the quantizers' advice to run other tools first, on the root logger."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
