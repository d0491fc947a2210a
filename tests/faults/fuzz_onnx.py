"""A tiny decoder and a tiny classifier as ONNX folders, made by hand, and seeded damage to them."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import onnx
from fuzz_mutators import damaged
from onnx import TensorProto, helper, numpy_helper
from tiny_models import tiny_tokenizer

GRAPH, DATA = "model.onnx", "model.onnx.data"
_WIDTH, _VOCAB = 8, 260
_INT64, _FLOAT = TensorProto.INT64, TensorProto.FLOAT


def tiny_decoder(folder: Path) -> Path:
    """An embedding, a head whose numbers lie beside the graph, and a cache of what was read."""
    folder.mkdir()
    vocab = tiny_tokenizer(folder, _VOCAB)
    random = np.random.default_rng(0)
    table = random.standard_normal((vocab, _WIDTH)).astype(np.float32)
    head = numpy_helper.from_array(np.ascontiguousarray(table.T), "head")
    (folder / DATA).write_bytes(head.raw_data)
    _put_beside(head, len(head.raw_data))
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["hidden"]),
        helper.make_node("MatMul", ["hidden", "head"], ["logits"]),
        helper.make_node("Unsqueeze", ["hidden", "axis"], ["new"]),
        *(
            helper.make_node(
                "Concat", [f"past_key_values.0.{side}", "new"], [f"present.0.{side}"], axis=2
            )
            for side in ("key", "value")
        ),
    ]
    cache = ["batch", 1, "past", _WIDTH]
    values = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "decoder",
        [
            values("input_ids", _INT64, ["batch", "tokens"]),
            values("attention_mask", _INT64, ["batch", "all"]),
            *(values(f"past_key_values.0.{side}", _FLOAT, cache) for side in ("key", "value")),
        ],
        [
            values("logits", _FLOAT, ["batch", "tokens", vocab]),
            *(values(f"present.0.{side}", _FLOAT, cache) for side in ("key", "value")),
        ],
        [numpy_helper.from_array(table, "table"), head, _numbers([1], "axis")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, folder / GRAPH)
    config = {"model_type": "llama", "vocab_size": vocab, "max_position_embeddings": 64}
    _write(folder / "config.json", {**config, "eos_token_id": 2})
    decoder = {"filename": GRAPH, "head_size": _WIDTH}
    _write(folder / "genai_config.json", {"model": {"decoder": decoder, "vocab_size": vocab}})
    return folder


def tiny_classifier(folder: Path) -> Path:
    """Two labels by the mean of an embedding."""
    folder.mkdir()
    vocab = tiny_tokenizer(folder, _VOCAB)
    table = np.random.default_rng(0).standard_normal((vocab, 2)).astype(np.float32)
    values = helper.make_tensor_value_info
    graph = helper.make_graph(
        [
            helper.make_node("Gather", ["table", "input_ids"], ["hidden"]),
            helper.make_node("ReduceMean", ["hidden"], ["logits"], axes=[1], keepdims=0),
        ],
        "classifier",
        [values("input_ids", _INT64, ["batch", "tokens"])],
        [values("logits", _FLOAT, ["batch", 2])],
        [numpy_helper.from_array(table, "table")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.save_model(model, folder / GRAPH)
    facts = {
        "task": "sequence-classification", "labels": ["off", "on"], "width": 2, "pooling": None,
        "normalize": False, "max_tokens": 32, "inputs": ["input_ids"], "pad_token_id": 0,
        "problem": "single_label_classification", "variant": "fp32",
    }  # fmt: skip
    _write(folder / "encoder.json", facts)
    return folder


def damaged_graph(random: Random, data: bytes) -> bytes:
    """One case: raw damage, or a graph that says something else."""
    if random.random() < 0.4:
        return damaged(random, data, head=random.choice((None, 200, 900)))
    model = onnx.ModelProto.FromString(data)
    for _ in range(random.choice((1, 1, 2))):
        graph = model.graph
        if all((graph.node, graph.initializer, graph.input, graph.output)):  # else all are gone
            random.choice(_LIES)(random, model)
    return bytes(model.SerializeToString())


def _dims(random: Random, model: Any) -> None:
    tensor = random.choice(model.graph.initializer)
    if tensor.dims:
        tensor.dims[random.randrange(len(tensor.dims))] = _number(random)


def _value_dims(random: Random, model: Any) -> None:
    value = random.choice([*model.graph.input, *model.graph.output])
    size = random.choice(value.type.tensor_type.shape.dim)
    size.dim_value = _number(random)


def _type(random: Random, model: Any) -> None:
    if random.random() < 0.5:
        random.choice(model.graph.initializer).data_type = random.choice((0, 1, 7, 10, 16, 22, 99))
    else:
        value = random.choice([*model.graph.input, *model.graph.output])
        value.type.tensor_type.elem_type = random.choice((0, 1, 6, 7, 8, 9, 99))


def _payload(random: Random, model: Any) -> None:
    tensor = random.choice(model.graph.initializer)
    raw = tensor.raw_data
    tensor.raw_data = random.choice((b"", raw[:-1], raw + raw, raw[: len(raw) // 2], b"\xff" * 9))


def _beside(random: Random, model: Any) -> None:
    tensor = random.choice(model.graph.initializer)
    places = (DATA, "../../../../../etc/passwd", "/etc/passwd", "", ".", "absent", "\0", "a" * 5000)
    del tensor.external_data[:]
    tensor.data_location = TensorProto.EXTERNAL
    numbers = ("0", "-1", "4", "99999999999999", "18446744073709551615", "x", "")
    for key, choices in (("location", places), ("offset", numbers), ("length", numbers)):
        if random.random() < 0.8:
            entry = tensor.external_data.add()
            entry.key, entry.value = key, random.choice(choices)


def _operator(random: Random, model: Any) -> None:
    node = random.choice(model.graph.node)
    names = ("MatMul", "Loop", "If", "Scan", "Reshape", "Expand", "Tile", "Nothing", "", "Gather",
             "Range", "ConstantOfShape", "Resize", "Einsum")  # fmt: skip
    node.op_type = random.choice(names)
    if random.random() < 0.3:
        node.domain = random.choice(("com.microsoft", "ai.onnx.ml", "none"))


def _wires(random: Random, model: Any) -> None:
    node = random.choice(model.graph.node)
    names = [name for one in model.graph.node for name in (*one.input, *one.output)]
    side = random.choice((node.input, node.output))
    side[random.randrange(len(side))] = random.choice((*names, "", "nothing"))


def _attribute(random: Random, model: Any) -> None:
    value = random.choice((_number(random), [_number(random)] * 3, "text", 1.5))
    name = random.choice(("axis", "axes", "to"))
    random.choice(model.graph.node).attribute.append(helper.make_attribute(name, value))


def _version(random: Random, model: Any) -> None:
    if random.random() < 0.5:
        model.ir_version = random.choice((0, -1, 99, 1 << 40, 3))
    elif model.opset_import:
        model.opset_import[0].version = random.choice((0, -1, 1, 6, 99, 1 << 40))


def _names(random: Random, model: Any) -> None:
    things = [*model.graph.input, *model.graph.output, *model.graph.initializer, *model.graph.node]
    random.choice(things).name = random.choice(("", "logits", "input_ids", "table", "\u202e", "x"))


def _twice(random: Random, model: Any) -> None:
    kind = random.choice(("node", "initializer", "input", "output"))
    rows = getattr(model.graph, kind)
    rows.add().CopyFrom(random.choice(rows))


def _drop(random: Random, model: Any) -> None:
    rows = getattr(model.graph, random.choice(("node", "initializer", "input", "output")))
    del rows[random.randrange(len(rows))]


def _facts(random: Random, model: Any) -> None:
    entry = model.metadata_props.add()
    entry.key = random.choice(("edgeforge.padding", "edgeforge.shared_cache", "edgeforge.logits"))
    entry.value = random.choice(("1", "left", "right", "last", "", "x"))


_LIES: tuple[Callable[[Random, Any], None], ...] = (
    _dims, _dims, _value_dims, _type, _payload, _beside, _beside, _operator, _wires, _attribute,
    _version, _names, _twice, _drop, _facts,
)  # fmt: skip


def _number(random: Random) -> int:
    return random.choice((0, 1, -1, 3, 1 << 20, 1 << 31, (1 << 62) + 1, -(1 << 63), (1 << 63) - 1))


def _numbers(values: list[int], name: str) -> Any:
    return numpy_helper.from_array(np.asarray(values, np.int64), name)


def _put_beside(tensor: Any, size: int) -> None:
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", DATA), ("offset", "0"), ("length", str(size))):
        entry = tensor.external_data.add()
        entry.key, entry.value = key, value


def _write(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
