"""The quantize stage: the file, its table of types, its warning."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy
import pytest
from tiny_gguf import tiny_gguf

from common.errors import UserError
from runtimes.gguf_file import read_tensor_types
from runtimes.imatrix_file import Imatrix, ImatrixEntry, write_imatrix
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.export.gguf import quantize
from toolchain.stage import Input


def _source(folder: Path, **sizes: int) -> Artifact:
    folder.mkdir()
    tiny_gguf(folder / "model-F32.gguf", **sizes)  # type: ignore[arg-type]
    return artifacts.describe(folder, format="gguf", stage="convert")


def _run(source: Artifact, out: Path, quantization: str, **options: object) -> Artifact:
    out.mkdir()
    config = quantize.Config.model_validate({"quantization": quantization, **options})
    return quantize.run(source, config, out)


def test_fitting_widths_need_no_warning(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = _run(_source(tmp_path / "f32"), tmp_path / "out", "q4_k_m")
    assert set(made.files) == {"model-Q4_K_M.gguf"}
    measured = made.measurements
    assert measured["quantization"] == "Q4_K_M" and measured["fallbacks"] == []
    assert "WARNING" not in capsys.readouterr().err
    entries = read_tensor_types(made.only(".gguf"))
    rows = {row["tensor"]: row for row in measured["tensors"]}
    assert {e.name: e.type for e in entries} == {n: row["actual"] for n, row in rows.items()}
    bits = 8 * sum(e.size_bytes for e in entries) / sum(e.elements for e in entries)
    assert measured["bits_per_weight"] == pytest.approx(bits, abs=1e-4)
    assert 4.5 < bits < 6


def test_fallbacks_are_listed_and_warned_of_with_reason_and_mend(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    source = _source(tmp_path / "f32", hidden=288, ffn=172, layers=1)
    made = _run(source, tmp_path / "out", "Q4_K_M")
    fallen = {f["tensor"]: (f["columns"], f["intended"], f["actual"]) for f in
              made.measurements["fallbacks"]}  # fmt: skip
    assert fallen["blk.0.attn_q.weight"] == (288, "Q4_K", "Q5_0")
    assert fallen["blk.0.ffn_down.weight"] == (172, "Q6_K", "F16")
    assert fallen["output.weight"] == (288, "Q6_K", "Q8_0")
    assert not any("norm" in name for name in fallen) and len(fallen) == 9
    error = capsys.readouterr().err
    assert "WARNING: 9 of 9 weight matrices (" in error and "are not Q4_K_M but" in error
    assert "Q4_K -> Q5_0: row length 288 is no multiple of 256\n" in error
    assert "row length 172 is no multiple of 256, nor of 32" in error
    assert "snap these widths to multiples of 256" in error and "288 -> 256" in error


def test_an_imatrix_s_mix_is_intended(tmp_path: Path) -> None:
    source = _source(tmp_path / "f32", layers=8)
    folder = tmp_path / "imatrix"
    folder.mkdir()
    ones = numpy.ones((1, 256), numpy.float32)
    entries = {f"blk.{i}.ffn_down.weight": ImatrixEntry(ones, ones[0, :1]) for i in range(8)}
    write_imatrix(folder / "imatrix.gguf", Imatrix(entries, 1, 512, ["text"]))
    imatrix = artifacts.describe(folder, format="imatrix", stage="imatrix")
    made = _run(source, tmp_path / "out", "Q4_0", imatrix=Input.of_artifact(imatrix))
    rows = {row["tensor"]: row for row in made.measurements["tensors"]}
    assert rows["blk.0.ffn_down.weight"]["actual"] == "Q4_1"
    assert rows["blk.0.ffn_down.weight"]["intended"] == "Q4_1"
    assert made.measurements["fallbacks"] == []
    assert list(made.parents) == [source.digest, imatrix.digest]
    assert made.config["imatrix"] == {"digest": imatrix.digest}


def test_overrides_are_intended_and_float_types_work(tmp_path: Path) -> None:
    source = _source(tmp_path / "f32")
    made = _run(source, tmp_path / "a", "Q4_0", tensor_types={r"attn_v": "Q8_0"})
    rows = {row["tensor"]: row for row in made.measurements["tensors"]}
    assert rows["blk.1.attn_v.weight"]["actual"] == "Q8_0"
    assert made.measurements["fallbacks"] == []
    half = _run(source, tmp_path / "b", "F16")
    assert half.measurements["fallbacks"] == []
    assert 16 < half.measurements["bits_per_weight"] < 16.5


def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = _source(tmp_path / "f32")
    with pytest.raises(UserError, match="did you mean 'Q5_K_M'"):
        quantize.Config(quantization="Q5KM")
    with pytest.raises(UserError, match="importance matrix"):
        _run(source, tmp_path / "a", "IQ2_XS")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(UserError, match="not enough disk"):
        _run(source, tmp_path / "b", "Q4_0")
