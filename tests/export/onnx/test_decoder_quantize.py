"""INT8 variants: what is rewritten, what it costs, that tied weights are held once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from runtimes.cpu_int8 import int8_support
from runtimes.ggml_blocks import dequantize_rows, quantize_rows
from runtimes.ort import open_session
from runtimes.ort_cache import OrtSequences
from runtimes.ort_graph import decoder_graph
from toolchain.artifact import Artifact
from toolchain.export.onnx import quantize
from toolchain.export.onnx.graph_file import GRAPH, load_graph
from toolchain.export.onnx.int8_weights import per_block, per_block4, per_channel
from toolchain.export.onnx.variants import VARIANTS

IDS = [5, 30, 77, 120, 9, 300, 41]


def quantized(source: Artifact, out: Path, variant: str, **config: object) -> Artifact:
    out.mkdir()
    # As the build does: without VNNI, sums of 8-bit products overflow.
    fits = {"reduce_range": int8_support().reduce_range}
    settings = quantize.Config.model_validate({"variant": variant, **fits, **config})
    return quantize.run(source, settings, out)


def logits(artifact: Artifact) -> np.ndarray:
    file = artifact.path / GRAPH
    session = open_session(file)
    sequences = OrtSequences(session, decoder_graph(session, file), file, [IDS], 0)
    return sequences.prefill(all_positions=True)[0]


@pytest.mark.parametrize("kind", ["built", "built_tied", "traced"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_of_every_graph_stays_close(
    variant: str, kind: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    source: Artifact = request.getfixturevalue(kind)
    made = quantized(source, tmp_path / "a", variant)
    assert quantized(source, tmp_path / "b", variant).files == made.files
    exact, close = logits(source), logits(made)
    assert close.shape == exact.shape
    error = np.abs(close - exact).max() / np.abs(exact).max()
    assert 1e-6 < error < (0.25 if variant == "int4-block" else 0.05)
    graph = load_graph(made.path / GRAPH).graph
    constants = {tensor.name for tensor in graph.initializer}
    operators = {n.op_type for n in graph.node if constants.intersection(n.input)}
    assert "MatMul" not in operators
    assert ("MatMulNBits" in operators) == VARIANTS[variant].layers.startswith("block")
    assert made.measurements["nodes"].get("embedding", 0) == VARIANTS[variant].int8_embedding
    if VARIANTS[variant].int8_embedding:
        assert made.measurements["float32_weights"] == []


def test_tied_weights_are_held_once_in_int8(built_tied: Artifact, tmp_path: Path) -> None:
    for variant in ("int8-mixed", "int8-block"):
        made = quantized(built_tied, tmp_path / variant, variant)
        weights = load_graph(made.path / GRAPH).graph.initializer
        vocabulary = [t for t in weights if 320 in t.dims and len(t.dims) > 1 and 64 in t.dims]
        assert len(vocabulary) == 1 and vocabulary[0].data_type in (2, 3)  # UINT8, INT8


def test_a_float32_embedding_is_named(
    built_tied: Artifact, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    from toolchain.export.onnx import int8_graph

    monkeypatch.setattr(int8_graph, "_LARGE", 1000)
    made = quantized(built_tied, tmp_path / "out", "int8-dynamic")
    assert made.measurements["float32_weights"] == ["lm_head.MatMul.weight"]
    assert "WARNING: 1 weights stay in FP32: lm_head.MatMul.weight" in capsys.readouterr().err


def test_the_last_position_alone_unless_asked(built: Artifact, tmp_path: Path) -> None:
    # Blocks quantize each position by itself, so that one and all give the same.
    made = quantized(built, tmp_path / "out", "int8-block")
    session = open_session(made.path / GRAPH)
    graph = decoder_graph(session, made.path / GRAPH)
    assert graph.last_only and graph.shared_cache and graph.padding == "right"
    single = OrtSequences(session, graph, made.path / GRAPH, [IDS], 0)
    given = session.run(["logits"], single.inputs(IDS))[0]
    assert given.shape == (1, 1, 320)
    np.testing.assert_allclose(given[0, 0], logits(made)[-1], atol=1e-5)


def test_one_huge_position_costs_the_others_nothing_with_their_own_scales(
    checkpoint: Path, tmp_path: Path
) -> None:
    """Before `down_proj` trained models have positions with values a thousand times the others'."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    from toolchain.export.onnx.int8_graph import Int8Graph

    random = np.random.default_rng(0)
    weight = random.standard_normal((96, 64)).astype(np.float32)
    x = random.standard_normal((1, 8, 96)).astype(np.float32)
    x[0, 3] *= 1000
    exact = x @ weight
    errors = {}
    for per_row in (False, True):
        graph = helper.make_graph(
            [helper.make_node("MatMul", ["x", "w"], ["y"], name="down")],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, None, 96])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
            [numpy_helper.from_array(weight, "w")],
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)
        rewritten = Int8Graph(model)
        narrow = int8_support().reduce_range
        rewritten.to_dynamic(model.graph.node[0], per_row=per_row, reduce_range=narrow)
        file = tmp_path / f"{per_row}.onnx"
        onnx.save(rewritten.finish(), file)
        found = open_session(file).run(None, {"x": x})[0]
        others = [i for i in range(8) if i != 3]
        errors[per_row] = np.abs(found - exact)[0, others].max()
    assert errors[True] < 0.5 < 10 * errors[True] < errors[False]


def test_weights_are_rounded_to_the_nearest_step() -> None:
    weight = np.random.default_rng(1).standard_normal((100, 33)).astype(np.float32)
    weight[:, 5] = 0
    values, scales = per_channel(weight)
    assert np.abs(values * scales - weight).max() <= scales.max() / 2 * 1.001
    narrow, wide = per_channel(weight, reduce_range=True)
    assert np.abs(narrow).max() == 63 and np.abs(narrow * wide - weight).max() <= wide.max() * 0.51
    blocks, steps = per_block(weight, 32)
    assert blocks.shape == (33, 4, 32) and steps.shape == (33, 4)
    back = ((blocks.astype(np.float32) - 128) * steps[..., None]).reshape(33, 128)[:, :100].T
    assert np.abs(back - weight).max() <= steps.max() * 0.51


def test_blocks_of_4_bits_are_near_and_keep_what_lies_on_their_grid() -> None:
    weight = np.random.default_rng(1).standard_normal((100, 33)).astype(np.float32)
    weight[:32, 5] = 0

    def back(packed: np.ndarray, scales: np.ndarray) -> np.ndarray:
        codes = np.stack([packed & 15, packed >> 4], -1).reshape(*packed.shape[:2], 32)
        values = (codes.astype(np.float32) - 8) * scales[..., None]
        return values.reshape(len(packed), -1)[:, :100].T

    packed, scales = per_block4(weight)
    assert packed.shape == (33, 4, 16) and scales.shape == (33, 4)
    near = back(packed, scales)
    assert np.square(near - weight).mean() < 0.012 * np.square(weight).mean()
    assert np.array_equal(near[:32, 5], weight[:32, 5])
    assert np.array_equal(back(*per_block4(near)), near)

    rows = np.ascontiguousarray(weight.T[:, :96])
    ours = dequantize_rows(quantize_rows(rows, "Q4_0"), "Q4_0", 96).T
    kept = back(*per_block4(np.concatenate([ours, np.zeros((4, 33), np.float32)])))
    assert np.array_equal(kept[:96], ours)  # bit by bit, as a GGUF has it


def test_refusals(built: Artifact, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="unknown INT8 variant 'int8-mixd'"):
        quantize.Config(variant="int8-mixd")
    once = quantized(built, tmp_path / "once", "int8-block")
    with pytest.raises(UserError, match="takes a float32 ONNX decoder"):
        quantized(once, tmp_path / "twice", "int8-block")
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / GRAPH).write_bytes((built.path / GRAPH).read_bytes()[:1000])
    with pytest.raises(UserError, match="cannot be read as ONNX"):
        quantized(Artifact(tmp_path / "cut", "onnx", {}, "x"), tmp_path / "out", "int8-block")
