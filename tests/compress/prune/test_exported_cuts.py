"""After a cut the exported file computes what the cut checkpoint does: GGUF and ONNX.

Set EDGEFORGE_ALL_FAMILIES=1 to try every family; without it those that had to be mended run.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from compress.prune.cuts import make, smaller
from tiny_encoders import as_source, export_here
from tiny_families import calibration, tiny_decoder, tiny_encoder
from tiny_onnx import exported

from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.evaluate import onnx_parity, parity
from toolchain.export.gguf import convert, quantize
from toolchain.export.onnx import encoder_quantize
from toolchain.stage import Input

AXES = ("layers", "groups", "ffn")
# Settings without which llama.cpp's file is another model, cut or not.
FAMILIES: dict[str, dict[str, Any]] = {
    "qwen2": {},
    "granite": {},
    "mistral": {"sliding_window": None},
}
TRIED = tuple(FAMILIES) if os.environ.get("EDGEFORGE_ALL_FAMILIES") else ("qwen2", "granite")


def cut_decoder(folder: Path, family: str) -> Artifact:
    source = tiny_decoder(folder / "base", family, **FAMILIES[family])
    return as_source(make(source, folder / "cut", smaller(source, AXES)).path)


def proof(checkpoint: Artifact, folder: Path) -> dict[str, Any]:
    text = calibration(folder / "text.txt")
    return {"checkpoint": Input.of_artifact(checkpoint), "evaluation": Input.of_file(text),
            "max_tokens": 128, "context_tokens": 24}  # fmt: skip


def folder_in(folder: Path, name: str) -> Path:
    (folder / name).mkdir()
    return folder / name


@pytest.mark.parametrize("family", TRIED)
def test_gguf(tmp_path: Path, family: str) -> None:
    """The stage raises when tokens, stop tokens or logits differ."""
    checkpoint = cut_decoder(tmp_path, family)
    gguf = convert.run(checkpoint, convert.Config(model_name="cut"), folder_in(tmp_path, "gguf"))
    config = parity.Config(**proof(checkpoint, tmp_path))
    done = parity.run(gguf, config, folder_in(tmp_path, "parity"))
    assert done.measurements["logits"]["positions"] >= 64
    small = quantize.run(
        gguf, quantize.Config(quantization="Q8_0"), folder_in(tmp_path, "quantized")
    )
    assert small.only(".gguf").stat().st_size < gguf.only(".gguf").stat().st_size


def test_onnx_of_a_decoder(tmp_path: Path) -> None:
    checkpoint = cut_decoder(tmp_path, "qwen2")
    onnx = exported(checkpoint.path, tmp_path / "onnx")
    config = onnx_parity.Config(**proof(checkpoint, tmp_path))
    assert onnx_parity.run(onnx, config, folder_in(tmp_path, "parity")).measurements["gates"]


def test_int8_of_an_encoder(tmp_path: Path) -> None:
    source = tiny_encoder(tmp_path / "base", "bert")
    cut = make(source, tmp_path / "cut", smaller(source, ("layers", "ffn")))
    onnx = tmp_path / "onnx"
    gates = export_here(cut.path, onnx)["gates"]
    assert gates and all(gate["passed"] for gate in gates)
    facts = {"variant": "fp32", "size_bytes": (onnx / "model.onnx").stat().st_size}
    whole = artifacts.describe(onnx, format="onnx-encoder", stage="test", measurements=facts)
    wanted = encoder_quantize.Config(variant="int8-dynamic")
    small = encoder_quantize.run(whole, wanted, folder_in(tmp_path, "int8"))
    assert small.measurements["quantized_nodes"] > 2 * cut.candidate.shape.layers
    assert small.measurements["size_bytes"] < facts["size_bytes"]
