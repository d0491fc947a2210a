"""Sessions open with their settings, and every broken file is one clear error."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from common.errors import UserError
from runtimes.ort import SessionSettings, model_bytes, open_session, run_session

WIDTH = 64


def matmul_model(
    file: Path, *, operator: str = "MatMul", domain: str = "", external: bool = False, **model: Any
) -> Path:
    """`y = x @ w` of width 64; `external` puts the weight into `<name>.data`."""
    weight = np.random.default_rng(0).standard_normal((WIDTH, WIDTH)).astype(np.float32)
    graph = helper.make_graph(
        [helper.make_node(operator, ["x", "w"], ["y"], domain=domain)],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, WIDTH])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(weight, "w")],
    )
    opsets = [helper.make_opsetid("", 21)] + ([helper.make_opsetid(domain, 1)] if domain else [])
    proto = helper.make_model(graph, opset_imports=opsets, **{"ir_version": 10, **model})
    onnx.save(
        proto, file, save_as_external_data=external, location=f"{file.name}.data", size_threshold=0
    )
    return file


def test_a_session_computes_with_the_threads_asked_for(tmp_path: Path) -> None:
    file = matmul_model(tmp_path / "m.onnx")
    session = open_session(file, SessionSettings(threads=1, spinning=False))
    assert session.get_session_options().intra_op_num_threads == 1
    x = np.eye(WIDTH, dtype=np.float32)
    weight = numpy_helper.to_array(onnx.load(file).graph.initializer[0])
    np.testing.assert_allclose(run_session(session, file, {"x": x})[0], weight, rtol=1e-6)


def test_external_data_count_to_the_size(tmp_path: Path) -> None:
    file = matmul_model(tmp_path / "m.onnx", external=True)
    assert model_bytes(file) == file.stat().st_size + WIDTH * WIDTH * 4
    assert open_session(file)


@pytest.mark.parametrize("keep", [0, 0.5])
def test_a_truncated_file(keep: float, tmp_path: Path) -> None:
    file = matmul_model(tmp_path / "m.onnx")
    data = file.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    with pytest.raises(UserError, match=r"m\.onnx is cut short or is no ONNX model"):
        open_session(file)


def test_external_data_missing_or_short(tmp_path: Path) -> None:
    file = matmul_model(tmp_path / "m.onnx", external=True)
    data = tmp_path / "m.onnx.data"
    data.write_bytes(data.read_bytes()[:100])
    with pytest.raises(UserError, match=r"external data of .* are cut short"):
        open_session(file)
    data.unlink()
    with pytest.raises(UserError, match=r"lacks its external data m\.onnx\.data") as error:
        open_session(file)
    assert error.value.mend == "m.onnx.data belongs beside it"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"operator": "NoSuch"}, "needs operator NoSuch, which this onnxruntime lacks"),
        (
            {"operator": "NoSuch", "domain": "com.microsoft"},
            "needs operator com.microsoft:NoSuch, which",
        ),
        ({"ir_version": 99}, "too new for this onnxruntime: .*IR version: 99"),
    ],
)
def test_what_this_onnxruntime_lacks(changes: dict[str, Any], words: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=words):
        open_session(matmul_model(tmp_path / "m.onnx", **changes))


def test_inputs_that_a_kernel_refuses_and_a_missing_file(tmp_path: Path) -> None:
    file = matmul_model(tmp_path / "m.onnx")
    with pytest.raises(UserError, match=r"cannot run .*m\.onnx: .*(dimension|shape|Expected)"):
        run_session(open_session(file), file, {"x": np.zeros((1, 3), np.float32)})
    with pytest.raises(UserError, match=r"none\.onnx is missing"):
        open_session(tmp_path / "none.onnx")
