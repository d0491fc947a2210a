"""INT8 encoders with some nodes left in FP32, tried without quantizing all over again.

The model is quantized once; a trial puts the FP32 nodes back in place, which computes what
quantizing with these exclusions gives.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from common.scratch import ScratchFolder
from runtimes.ort_encoder import FACTS, MODEL, TOKENIZER, OrtEncoder, open_encoder
from toolchain.export.onnx.encoder_graph import drop_unused, save
from toolchain.export.onnx.encoder_quantize import Config, quantized
from toolchain.export.onnx.graph_file import load_graph


class Trials:
    """Builds trial encoders of one FP32 folder. A context manager: its files lie in a temporary
    folder."""

    def __init__(
        self, folder: Path, config: Config, batches: Sequence[Mapping[str, Any]] = ()
    ) -> None:
        self._config = config
        self._batches = batches
        self._plain = load_graph(folder / MODEL)
        self._whole: Any = None
        self._scratch = ScratchFolder("trials")
        self._place = Path(self._scratch.name)
        for name in (FACTS, TOKENIZER):
            shutil.copyfile(folder / name, self._place / name)

    def __enter__(self) -> Trials:
        return self

    def __exit__(self, *_: object) -> None:
        self._scratch.cleanup()

    def encoder(self, exclude: Collection[str]) -> OrtEncoder:
        """The encoder with these nodes in FP32; the caller closes it before the next."""
        model = self.model(exclude)
        for old in self._place.glob(f"{MODEL}*"):
            old.unlink()
        save(model, self._place)
        return open_encoder(self._place)

    def model(self, exclude: Collection[str]) -> Any:
        """The trial's graph."""
        if self._whole is None:
            whole = self._config.model_copy(update={"exclude": ()})
            self._whole = quantized(self._plain, whole, self._batches)
        return restored(self._whole, self._plain, exclude)

    def measured(self, exclude: Collection[str], outputs: Callable[[OrtEncoder], Any]) -> Any:
        """What `outputs` finds on the trial's encoder."""
        with self.encoder(exclude) as model:
            return outputs(model)


def restored(whole: Any, plain: Any, names: Collection[str]) -> Any:
    """A copy of the quantized model `whole` in which these nodes are as in `plain`."""
    import onnx

    result = onnx.ModelProto()
    result.CopyFrom(whole)
    graph = result.graph
    nodes = {node.name: node for node in plain.graph.node if node.name in names}
    outputs = {node.output[0]: node for node in nodes.values()}
    for position, node in enumerate(graph.node):
        original = outputs.get(node.output[0])
        if original is not None:
            graph.node[position].CopyFrom(original)
    _unwrap_outputs(graph, outputs)
    have = {tensor.name for tensor in graph.initializer}
    needed = {name for node in nodes.values() for name in node.input} - have
    graph.initializer.extend(t for t in plain.graph.initializer if t.name in needed)
    drop_unused(graph)
    return result


def _unwrap_outputs(graph: Any, names: Collection[str]) -> None:
    """Readers of these tensors' quantized and dequantized forms (QDQ) read the tensors again."""
    rounded = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "QuantizeLinear"}
    plain = {
        node.output[0]: rounded[node.input[0]]
        for node in graph.node
        if node.op_type == "DequantizeLinear" and rounded.get(node.input[0]) in names
    }
    for node in graph.node:
        for position, name in enumerate(node.input):
            if name in plain:
                node.input[position] = plain[name]
