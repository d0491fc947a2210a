"""Rewrite a decoder's float32 ONNX graph for 8-bit or 4-bit weights, kind of node by kind of node.

Works on the graphs of onnxruntime-genai's builder and of torch.onnx.export: whatever is a `MatMul`
with a constant weight is a candidate; the one that makes `logits` is the output head; the `Gather`
that takes `input_ids` is the embedding.

`DynamicQuantizeLinear`, `MatMulInteger`, `Cast` and `Mul` are standard ONNX; onnxruntime fuses them
into its own kernels when a session opens. `MatMulNBits` is onnxruntime's.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from runtimes.ort_graph import LOGITS_START
from toolchain.export.onnx.int8_lookup import lookup_blocks, lookup_columns, lookup_rows
from toolchain.export.onnx.int8_weights import (
    GRID_BLOCK,
    per_block,
    per_block4,
    per_channel,
    per_grid,
)
from toolchain.export.onnx.nodes import MICROSOFT, node_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from onnx import ModelProto, NodeProto

# Activations are quantized to 8 bits too; without it decoding takes 30 times as long.
_ACCURACY_INT8 = 4
_LARGE = 65_536
_LEAST_ROW = 1e-20  # a row of zeros is divided by this


@dataclass
class Int8Graph:
    """A model under rewriting. `done` names the nodes that were rewritten, by kind."""

    model: ModelProto
    done: dict[str, list[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._weights = {tensor.name: tensor for tensor in self.model.graph.initializer}
        self._quantized_inputs: dict[str, tuple[str, str, str]] = {}
        self._split_gemms()
        self._transposes = self._constant_transposes()
        self._opset = max(o.version for o in self.model.opset_import if o.domain == "")

    @property
    def head(self) -> NodeProto | None:
        """The `MatMul` whose result becomes `logits`, possibly scaled or capped on the way."""
        producers = {out: node for node in self.model.graph.node for out in node.output}
        node = producers.get("logits")
        while node is not None and not self._is_candidate(node):
            node = next((producers[name] for name in node.input if name in producers), None)
        return node

    @property
    def embedding(self) -> NodeProto | None:
        """The `Gather` of token embeddings."""
        nodes = self.model.graph.node
        return next((n for n in nodes if n.op_type == "Gather" and n.input[1] == "input_ids"), None)

    def layers(self) -> list[NodeProto]:
        """All `MatMul`s with constant weights but the output head."""
        head = self.head
        return [n for n in self.model.graph.node if self._is_candidate(n) and n is not head]

    def weight(self, node: NodeProto) -> NDArray[np.float32]:
        """The constant weight `[in, out]` of a `MatMul`."""
        from onnx import numpy_helper

        name = node.input[1]
        stored: NDArray[np.float32] = numpy_helper.to_array(
            self._weights[self._transposes.get(name, name)]
        )
        return stored.T if name in self._transposes else stored

    def to_blocks(self, node: NodeProto, block_size: int) -> str:
        """Make a `MatMul` a `MatMulNBits` of 8 bits; the name of its packed weight. Blocks are
        smaller where the width is no multiple of `block_size`."""
        weight = self.weight(node)
        fitting = (b for b in (block_size, 64, 32, 16) if weight.shape[0] % b == 0)
        block_size = next(fitting, block_size)
        name = f"{node.input[1]}_q8"
        made = per_grid(weight) if block_size == GRID_BLOCK else per_block(weight, block_size)
        self._to_nbits(node, name, made, 8, block_size)
        self._note("block", node)
        return name

    def to_blocks4(self, node: NodeProto) -> None:
        """Make a `MatMul` a `MatMulNBits` of 4 bits."""
        made = per_block4(self.weight(node))
        self._to_nbits(node, f"{node.input[1]}_q4", made, 4, GRID_BLOCK)
        self._note("block of 4 bits", node)

    def to_dynamic(
        self, node: NodeProto, *, per_row: bool = False, reduce_range: bool = False
    ) -> str:
        """Make a `MatMul` compute in int8 with activations quantized as they come; the name of its
        weight.

        One scale serves all activations, and nodes with the same input share their quantization.
        With `per_row` each position is first divided by its largest value: a single position with
        huge values (as trained models have them before `down_proj`) then costs the others nothing.
        """
        quantized, scales = per_channel(self.weight(node), reduce_range=reduce_range)
        name, out = f"{node.input[1]}_q8", node.output[0]
        self.add(name, quantized)
        self.add(f"{name}_scales", scales)
        value, result = node.input[0], out
        rows: list[NodeProto] = []
        if per_row:
            rows, value = self._rows_to_one(value)
            result = f"{out}_rows"
        before, (integer, scale, zero) = self._quantized(value)
        product, wide, factor = f"{out}_int32", f"{out}_float", f"{out}_scale"
        made = [
            *rows,
            *before,
            node_of("MatMulInteger", [integer, name, zero], [product], domain=""),
            node_of("Cast", [product], [wide], domain="", to=1),
            node_of("Mul", [scale, f"{name}_scales"], [factor], domain=""),
            node_of("Mul", [wide, factor], [result], domain=""),
        ]
        if per_row:
            made.append(node_of("Mul", [result, f"{node.input[0]}_largest"], [out], domain=""))
        self._replace(node, made)
        self._note("dynamic per row" if per_row else "dynamic", node)
        return name

    def embedding_int8(self, tied_to: str | None) -> None:
        """Look tokens up in int8 (one scale per token) and widen them: the embedding of its own,
        or the output head's packed weight (`tied_to`), so that the file holds it once."""
        import numpy as np

        node = self.embedding
        if node is None or (tied_to is None and node.input[0] not in self._weights):
            return
        out = node.output[0]
        if tied_to is None:
            from onnx import numpy_helper

            table = numpy_helper.to_array(self._weights[node.input[0]])
            rows, scales = per_channel(np.ascontiguousarray(table.T))
            tied_to = f"{node.input[0]}_q8"
            self.add(tied_to, np.ascontiguousarray(rows.T))
            self.add(f"{tied_to}_scales", scales[:, None])
            made = lookup_rows(tied_to, out)
        elif len(self._weights[tied_to].dims) == 3:
            shape, width = tuple(self._weights[tied_to].dims[1:]), self._embedding_width(node)
            made = lookup_blocks(self.add, tied_to, out, shape, width)
        else:
            made = lookup_columns(self.add, tied_to, out)
        self._replace(node, made)
        self._note("embedding", node)

    def last_position(self) -> None:
        """Give logits of the last position alone, unless the optional input `logits_start` names an
        earlier one: a prompt's other rows are never needed when text is generated."""
        import numpy as np
        from onnx import TensorProto, helper

        node = self.head
        if node is None:
            return
        hidden, kept = node.input[0], f"{node.input[0]}_kept"
        self.add(LOGITS_START, np.array([-1], np.int64))
        for name, value in (("logits_end", np.iinfo(np.int64).max), ("logits_axis", 1)):
            self.add(name, np.array([value], np.int64))
        default = helper.make_tensor_value_info(LOGITS_START, TensorProto.INT64, [1])
        self.model.graph.input.append(default)
        inputs = [hidden, LOGITS_START, "logits_end", "logits_axis"]
        index = list(self.model.graph.node).index(node)
        node.input[0] = kept
        self.model.graph.node.insert(index, node_of("Slice", inputs, [kept], domain=""))
        logits = next(value for value in self.model.graph.output if value.name == "logits")
        # A fixed 1 is how onnxruntime-genai knows; other lengths still come out when asked for.
        logits.type.tensor_type.shape.dim[1].dim_value = 1

    def shares_embedding(self, head: NodeProto) -> bool:
        """Whether embedding and output head are the same weights."""
        import numpy as np
        from onnx import numpy_helper

        node = self.embedding
        if node is None:
            return False
        ours = self._transposes.get(head.input[1], head.input[1])
        theirs = self._transposes.get(node.input[0], node.input[0])
        if ours == theirs:
            return True
        if theirs not in self._weights or node.input[0] in self._transposes:
            return False
        table, weight = numpy_helper.to_array(self._weights[theirs]), self.weight(head)
        return table.shape == weight.shape[::-1] and np.array_equal(table, weight.T)

    def large_float32_weights(self) -> list[str]:
        """Names of the float32 matrices of a finished graph."""
        from onnx import TensorProto

        return sorted(
            tensor.name
            for tensor in self.model.graph.initializer
            if tensor.data_type == TensorProto.FLOAT
            and len(tensor.dims) == 2
            and not tensor.name.endswith(("_scales", "cos_cache", "sin_cache"))
            and tensor.dims[0] * tensor.dims[1] >= _LARGE
        )

    def finish(self) -> ModelProto:
        """The model without what nothing uses any more."""
        graph = self.model.graph
        wanted = {value.name for value in graph.output}
        kept = []
        for node in reversed(graph.node):
            if wanted.intersection(node.output):
                kept.append(node)
                wanted.update(node.input)
        del graph.node[:]
        graph.node.extend(reversed(kept))
        tensors = [tensor for tensor in graph.initializer if tensor.name in wanted]
        del graph.initializer[:]
        graph.initializer.extend(tensors)
        if not any(opset.domain == MICROSOFT for opset in self.model.opset_import):
            self.model.opset_import.add(domain=MICROSOFT, version=1)
        return self.model

    def _to_nbits(
        self, node: NodeProto, name: str, made: tuple[Any, Any], bits: int, block_size: int
    ) -> None:
        packed, scales = made
        inner, outer = self.weight(node).shape
        self.add(name, packed)
        self.add(f"{name}_scales", scales)
        attributes = {"K": inner, "N": outer, "bits": bits, "block_size": block_size}
        inputs = [node.input[0], name, f"{name}_scales"]
        attributes["accuracy_level"] = _ACCURACY_INT8
        self._replace(node, [node_of("MatMulNBits", inputs, list(node.output), **attributes)])

    def _embedding_width(self, node: NodeProto) -> int:
        name = node.input[0]
        if name in self._transposes:
            return int(self._weights[self._transposes[name]].dims[0])
        return int(self._weights[name].dims[1])

    def _rows_to_one(self, name: str) -> tuple[list[NodeProto], str]:
        """Nodes that divide each row by its largest magnitude, and the name of what they make."""
        import numpy as np

        if "row_least" not in self._weights:
            self.add("row_axis", np.array([-1], np.int64))
            self.add("row_least", np.array(_LEAST_ROW, np.float32))
        # Reductions take their axes as an input since version 18.
        axes, rest = (["row_axis"], {}) if self._opset >= 18 else ([], {"axes": [-1]})
        size, top = f"{name}_magnitude", f"{name}_top"
        return [
            node_of("Abs", [name], [size], domain=""),
            node_of("ReduceMax", [size, *axes], [top], domain="", keepdims=1, **rest),
            node_of("Max", [top, "row_least"], [f"{name}_largest"], domain=""),
            node_of("Div", [name, f"{name}_largest"], [f"{name}_ones"], domain=""),
        ], f"{name}_ones"

    def _quantized(self, name: str) -> tuple[list[NodeProto], tuple[str, str, str]]:
        """The value's quantized form; the nodes that make it when it is met first."""
        if name in self._quantized_inputs:
            return [], self._quantized_inputs[name]
        made = (f"{name}_u8", f"{name}_u8_scale", f"{name}_u8_zero")
        self._quantized_inputs[name] = made
        return [node_of("DynamicQuantizeLinear", [name], list(made), domain="")], made

    def _is_candidate(self, node: NodeProto) -> bool:
        if node.op_type != "MatMul":
            return False
        name = self._transposes.get(node.input[1], node.input[1])
        return name in self._weights and len(self._weights[name].dims) == 2

    def _split_gemms(self) -> None:
        """Make `Gemm` with a constant weight `MatMul` and `Add`, as layers with a bias come."""
        from onnx import numpy_helper

        for node in [n for n in self.model.graph.node if n.op_type == "Gemm"]:
            floats = ("alpha", "beta")
            attributes = {a.name: a.f if a.name in floats else a.i for a in node.attribute}
            plain = attributes.get("alpha", 1) == attributes.get("beta", 1) == 1
            weight = self._weights.get(node.input[1])
            if weight is None or not plain or attributes.get("transA"):
                continue
            name = node.input[1]
            if attributes.get("transB"):
                name = f"{name}_transposed"
                if name not in self._weights:
                    self.add(name, numpy_helper.to_array(weight).T.copy())
            biased = len(node.input) > 2 and bool(node.input[2])
            product = f"{node.output[0]}_product" if biased else node.output[0]
            made = [node_of("MatMul", [node.input[0], name], [product], domain="")]
            made[0].name = f"{node.name}/MatMul"
            if biased:
                inputs = [product, node.input[2]]
                made.append(node_of("Add", inputs, [node.output[0]], domain=""))
            self._replace(node, made)

    def _constant_transposes(self) -> dict[str, str]:
        """Outputs of `Transpose` nodes over constant matrices, and the matrix of each."""
        return {
            node.output[0]: node.input[0]
            for node in self.model.graph.node
            if node.op_type == "Transpose"
            and node.input[0] in self._weights
            and len(self._weights[node.input[0]].dims) == 2
        }

    def add(self, name: str, values: NDArray[Any]) -> None:
        """Add a constant; one that is there is kept."""
        if name in self._weights:
            return
        from onnx import numpy_helper

        tensor = numpy_helper.from_array(values, name)
        self.model.graph.initializer.append(tensor)
        self._weights[name] = tensor

    def _replace(self, node: NodeProto, made: list[NodeProto]) -> None:
        nodes = self.model.graph.node
        index = next(i for i, other in enumerate(nodes) if other is node or other == node)
        del nodes[index]
        for offset, new in enumerate(made):
            new.name = new.name or f"{node.name}/{new.op_type}_{offset}"
            nodes.insert(index + offset, new)

    def _note(self, kind: str, node: NodeProto) -> None:
        self.done.setdefault(kind, []).append(node.name)
