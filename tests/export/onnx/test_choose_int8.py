"""`int8: auto`: the fastest for the mix within the budget, with a record of every candidate."""

from __future__ import annotations

from pathlib import Path

import pytest

from common.errors import UserError
from runtimes.ort_bench import DecoderSpeed, SpeedSettings, measure_decoders
from toolchain.artifact import Artifact
from toolchain.export.onnx import quantize
from toolchain.export.onnx.choose import Int8Choice, Mix, choose_int8

SPEEDS = {
    "FP32": DecoderSpeed(1.0, 0.1, 1.0, 1.0),
    "int8-mixed": DecoderSpeed(0.3, 0.03, 3.3, 3.3),
    "int8-block": DecoderSpeed(0.7, 0.025, 1.4, 4.0),
    "int8-dynamic": DecoderSpeed(0.2, 0.2, 5.0, 0.5),
}
KLD = {"int8-mixed": 5e-4, "int8-block": 2e-4, "int8-dynamic": 3e-4}


def chosen(built: Artifact, mix: Mix, budget: float = 1e-3) -> Int8Choice:
    artifacts = {name: Artifact(built.path, "onnx", {"name": name}, "x") for name in KLD}
    return choose_int8(
        built, tuple(KLD), artifacts.__getitem__, lambda a: KLD[a.files["name"]],
        budget, mix, SpeedSettings(prefill_tokens=256), lambda files, settings: SPEEDS,
    )  # fmt: skip


def test_the_mix_decides(built: Artifact) -> None:
    assert chosen(built, Mix(256, 32)).name == "int8-mixed"
    assert chosen(built, Mix(256, 512)).name == "int8-block"
    assert chosen(built, Mix(4096, 4)).name == "int8-dynamic"
    tried = {record.name: record for record in chosen(built, Mix(256, 512)).tried}
    assert tried["int8-block"].verdict == "chosen"
    assert "fastest within" in tried["int8-block"].reason
    assert tried["int8-dynamic"].reason == "no faster than FP32"
    assert tried["int8-dynamic"].mix_ratio < 1 < tried["int8-mixed"].mix_ratio
    assert tried["int8-mixed"].as_json()["kld"] == 5e-4


def test_the_budget_decides(built: Artifact) -> None:
    strict = chosen(built, Mix(256, 32), budget=2.5e-4)
    assert strict.name == "int8-block"
    assert any("exceeds the budget 0.00025" in record.reason for record in strict.tried)
    with pytest.raises(UserError, match="no INT8 variant is within") as error:
        chosen(built, Mix(256, 32), budget=1e-6)
    assert len(error.value.details) == 3


def test_real_files_are_timed(built: Artifact, tmp_path: Path) -> None:
    (tmp_path / "int8").mkdir()
    small = quantize.run(built, quantize.Config(variant="int8-mixed"), tmp_path / "int8")
    files = {"FP32": built.path / "model.onnx", "INT8": small.path / "model.onnx"}
    speeds = measure_decoders(files, SpeedSettings(16, 4, threads=1, rounds=2))
    assert speeds["FP32"].prefill_ratio == speeds["FP32"].decode_ratio == 1.0
    assert all(s.prefill_sec > 0 and s.decode_sec > 0 for s in speeds.values())
