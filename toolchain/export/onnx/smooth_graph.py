"""Fold activation scales into what makes the activations, so that they quantize better.

SmoothQuant (Xiao et al., arXiv 2211.10438): channel j of a `MatMul`'s input is divided by s_j and
row j of its weight multiplied, which changes nothing in exact arithmetic; with
s_j = max|x_j|^alpha / max|w_j|^(1 - alpha) outlier channels lose to the weights, which have a scale
per output channel, what activations cannot afford. The division goes into the weight of the norm
before, or, where the input is a product (a gated FFN's), into the projection that makes one factor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from onnx import ModelProto, NodeProto, numpy_helper

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_NORMS = {
    "SimplifiedLayerNormalization": (1,),
    "RMSNormalization": (1,),
    "LayerNormalization": (1, 2),
    "SkipSimplifiedLayerNormalization": (2,),
    "SkipLayerNormalization": (2, 3),
}
"""Norms, and which of their inputs are vectors that scale with the output."""
_SMALLEST = 1e-5


@dataclass(frozen=True)
class Fold:
    """A value that can be smoothed. `vectors` (of a norm) or the columns of `producer` (a weight)
    take the division, the rows of `consumers` the multiplication; all are initializers' names."""

    value: str
    vectors: tuple[str, ...]
    producer: str | None
    consumers: tuple[str, ...]


def find_folds(model: ModelProto) -> list[Fold]:
    """Every place of the graph where scales can go without a further node."""
    graph = model.graph
    weights = {tensor.name: len(tensor.dims) for tensor in graph.initializer}
    users: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, []).append(node)
    producers = {name: node for node in graph.node for name in node.output}
    outputs = {value.name for value in graph.output}

    def single(name: str) -> bool:
        return len(users.get(name, [])) == 1

    def constant_matmul(node: NodeProto) -> bool:
        fits = node.op_type == "MatMul" and weights.get(node.input[1]) == 2
        return fits and single(node.input[1])

    folds = []
    for node in graph.node:
        value = node.output[0]
        after = users.get(value, [])
        if not after or value in outputs or not all(constant_matmul(user) for user in after):
            continue
        consumers = tuple(user.input[1] for user in after)
        vectors = _vectors(node, weights)
        if vectors and all(single(name) for name in vectors):
            folds.append(Fold(value, vectors, None, consumers))
        elif node.op_type == "Mul":
            makers = [producers[name] for name in node.input if name in producers]
            fitting = [m for m in makers if constant_matmul(m) and single(m.output[0])]
            if fitting:
                folds.append(Fold(value, (), fitting[-1].input[1], consumers))
    return folds


def _vectors(node: NodeProto, weights: Mapping[str, int]) -> tuple[str, ...]:
    """The vectors that scale a norm's output; a plain product with a vector counts as one."""
    if node.op_type == "Mul":
        return tuple(name for name in node.input if weights.get(name) == 1)
    places = [i for i in _NORMS.get(node.op_type, ()) if i < len(node.input) and node.input[i]]
    names = tuple(node.input[i] for i in places)
    return names if names and all(weights.get(name) == 1 for name in names) else ()


def smooth(model: ModelProto, largest: Mapping[str, NDArray[np.float32]], alpha: float) -> int:
    """Fold scales into the model's weights; how many values were smoothed.

    `largest` has the largest magnitude of each channel of each fold's value, `[channels]`.
    """
    import numpy as np

    tensors = {tensor.name: tensor for tensor in model.graph.initializer}

    def change(name: str, factor: NDArray[np.floating[Any]]) -> None:
        values = (numpy_helper.to_array(tensors[name]) * factor).astype(np.float32)
        tensors[name].CopyFrom(numpy_helper.from_array(values, name))

    done = 0
    for fold in find_folds(model):
        rows = [np.abs(numpy_helper.to_array(tensors[name])).max(axis=1) for name in fold.consumers]
        scales = smoothing_scales(largest[fold.value], np.max(rows, axis=0), alpha)
        width = tensors[fold.vectors[0]].dims[0] if fold.vectors else len(scales)
        if width != len(scales):
            continue
        for name in fold.vectors:
            change(name, 1 / scales)
        if fold.producer is not None:
            change(fold.producer, 1 / scales)
        for name in fold.consumers:
            change(name, scales[:, None])
        done += 1
    return done


def smoothing_scales(
    activations: NDArray[np.float32], weights: NDArray[np.float32], alpha: float
) -> NDArray[np.float32]:
    """s_j of the paper, all divided by their geometric mean so that weights keep their size."""
    import numpy as np

    x, w = np.maximum(activations, _SMALLEST), np.maximum(weights, _SMALLEST)
    logs = alpha * np.log(x) - (1 - alpha) * np.log(w)
    return np.asarray(np.exp(logs - logs.mean()), np.float32)
