"""INT8 variants: near FP32, reproducible, nodes left out on request, unfit calibration refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_encoders import TAGS, exported, texts, write_rows

from common.errors import UserError
from runtimes.ort_encoder import MODEL, open_classifier, read_facts
from toolchain.artifact import Artifact
from toolchain.export.onnx import encoder_quantize
from toolchain.export.onnx.encoder_quantize import Config
from toolchain.export.onnx.encoder_variants import VARIANTS, quantizable_nodes
from toolchain.stage import Input

# The operator that a product becomes in the file, and what the outputs may be off at this size.
FORMS = {
    "int8-dynamic": ("MatMulInteger", 0.12),
    "int8-block": ("MatMulNBits", 0.05),
    "int8-static": ("QuantizeLinear", 0.4),
}


def calibration(folder: Path, rows: list[dict[str, Any]] | None = None) -> Input:
    rows = [{"text": text} for text in texts(64)] if rows is None else rows
    return Input.of_file(write_rows(folder / "calibration.jsonl", rows))


def quantized(folder: Path, name: str = "q", **settings: Any) -> Artifact:
    if settings["variant"] == "int8-static" and "calibration" not in settings:
        settings["calibration"] = calibration(folder)
    (folder / name).mkdir()
    return encoder_quantize.run(exported(), Config(**settings), folder / name)


def operators(artifact: Artifact) -> list[str]:
    return [node.op_type for node in onnx.load(str(artifact.path / MODEL)).graph.node]


@pytest.mark.parametrize("variant", FORMS)
def test_near_fp32_smaller_and_the_same_bytes_again(variant: str, tmp_path: Path) -> None:
    operator, limit = FORMS[variant]
    found = quantized(tmp_path, variant=variant)
    assert operator in operators(found)
    assert read_facts(found.path).variant == found.measurements["variant"] == variant
    assert found.measurements["size_bytes"] < exported().measurements["size_bytes"]
    assert found.measurements["quantized_nodes"] == (17 if variant == "int8-dynamic" else 14)
    with open_classifier(found.path) as model, open_classifier(exported().path) as plain:
        wanted = plain.scores(texts(40))
        apart = np.abs(model.scores(texts(40)) - wanted).mean() / np.abs(wanted).mean()
    assert 0 < apart < limit
    assert quantized(tmp_path, "again", variant=variant).files == found.files


def test_the_table_and_the_config_agree() -> None:
    assert set(VARIANTS) == set(FORMS) == set(encoder_quantize.VariantName.__args__)  # type: ignore[attr-defined]


@pytest.mark.parametrize("variant", FORMS)
def test_excluded_nodes_stay_as_they_were(variant: str, tmp_path: Path) -> None:
    graph = onnx.load(str(exported().path / MODEL)).graph
    nodes = quantizable_nodes(onnx.load(str(exported().path / MODEL)), embeddings=True)
    matmuls = [name for name in nodes if name.endswith("MatMul")]
    assert len(matmuls) == 14 and len(nodes) == 17
    kept = (matmuls[3], matmuls[8])
    found = quantized(tmp_path, variant=variant, exclude=kept)
    after = onnx.load(str(found.path / MODEL)).graph
    weights = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    have = {t.name: numpy_helper.to_array(t) for t in after.initializer}
    for name in kept:
        old = next(node for node in graph.node if node.name == name)
        new = next(node for node in after.node if node.name == name)
        assert new.op_type == "MatMul"
        np.testing.assert_array_equal(have[new.input[1]], weights[old.input[1]])
    assert found.measurements["fp32_nodes"] == list(kept)


def test_an_unknown_node_is_named_with_the_nearest(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no quantizable node") as raised:
        quantized(tmp_path, variant="int8-dynamic", exclude=("/model/classifier/Gem_MatMul",))
    assert "/model/classifier/Gemm_MatMul" in raised.value.mend


def test_reduced_range_keeps_weights_to_seven_bits(tmp_path: Path) -> None:
    for reduce_range, most in ((False, 127), (True, 64)):
        found = quantized(
            tmp_path, str(reduce_range), variant="int8-dynamic", reduce_range=reduce_range
        )
        graph = onnx.load(str(found.path / MODEL)).graph
        read = {node.input[1] for node in graph.node if node.op_type == "MatMulInteger"}
        values = [numpy_helper.to_array(t) for t in graph.initializer if t.name in read]
        assert len(values) == 14
        assert most - 2 <= max(int(np.abs(v.astype(int)).max()) for v in values) <= most + 1


def test_embeddings_stay_in_fp32_on_request(tmp_path: Path) -> None:
    found = quantized(tmp_path, variant="int8-dynamic", embeddings=False)
    tensors = onnx.load(str(found.path / MODEL)).graph.initializer
    tables = [t for t in tensors if "embeddings" in t.name and len(t.dims) == 2]
    assert {t.data_type for t in tables} == {onnx.TensorProto.FLOAT} and len(tables) == 3


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        ([], "is empty"),
        ([{"text": "one"}] * 5, "has 5 rows, too few for calibration"),
        ([{"sentence": "one"}] * 40, "needs the column 'text'; found: sentence"),
        ([{"text": 3}] * 40, "row 1: int is no text"),
    ],
)
def test_calibration_data_that_do_not_do(
    rows: list[dict[str, Any]], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=problem):
        quantized(tmp_path, variant="int8-static", calibration=calibration(tmp_path, rows))
    assert list((tmp_path / "q").iterdir()) == []


def test_calibration_data_that_are_missing(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="needs calibration data") as raised:
        encoder_quantize.run(exported(), Config(variant="int8-static"), tmp_path)
    assert "32 rows" in raised.value.mend
    gone = calibration(tmp_path)
    gone.path.unlink()
    with pytest.raises(UserError, match=r"calibration\.jsonl is missing"):
        quantized(tmp_path, variant="int8-static", calibration=gone)


def test_a_tagger_is_calibrated_on_words(tmp_path: Path) -> None:
    rows = [{"tokens": text.split(), "labels": ["O"] * len(text.split())} for text in texts(40)]
    source = exported("token-classification")
    config = Config(variant="int8-static", calibration=calibration(tmp_path, rows))
    (tmp_path / "q").mkdir()
    found = encoder_quantize.run(source, config, tmp_path / "q")
    assert found.measurements["calibration_texts"] == 40
    assert read_facts(found.path).labels == TAGS


def test_int8_is_not_quantized_again(tmp_path: Path) -> None:
    found = quantized(tmp_path, variant="int8-block")
    with pytest.raises(UserError, match="is no FP32 ONNX encoder"):
        encoder_quantize.run(found, Config(variant="int8-dynamic"), tmp_path / "again")
