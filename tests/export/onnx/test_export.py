"""Checkpoints become ONNX decoders by the exporter that fits, the same bytes every time."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tiny_onnx import exported

from common.errors import Lack, UserError
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.export.onnx import export, exporter_process
from toolchain.export.onnx.graph_file import DATA, GRAPH, graph_bytes, load_graph
from toolchain.export.onnx.obstacles import builder_architectures, builder_obstacles


def test_the_builder_takes_what_it_can(built: Artifact) -> None:
    assert built.measurements["exporter"] == "builder" and built.measurements["tried"] == []
    assert {GRAPH, "genai_config.json", "config.json", "tokenizer.json"} <= set(built.files)
    operators = {node.op_type for node in load_graph(built.path / GRAPH).graph.node}
    assert "GroupQueryAttention" in operators
    assert built.measurements["size_bytes"] == graph_bytes(built.path)
    assert built.measurements["peak_rss_bytes"] > 10_000_000


def test_a_head_size_that_the_kernels_lack_goes_to_torch(traced: Artifact) -> None:
    assert traced.measurements["exporter"] == "torch (torchscript)"
    [tried] = traced.measurements["tried"]
    assert "head size 8 is no multiple of 16" in tried["reason"]
    assert "genai_config.json" not in traced.files
    inputs = [value.name for value in load_graph(traced.path / GRAPH).graph.input]
    assert inputs == [
        "input_ids", "attention_mask", "past_key_values.0.key", "past_key_values.0.value",
    ]  # fmt: skip


def test_the_same_bytes_again_and_large_tensors_beside_the_graph(
    built: Artifact, checkpoint: Path, traced: Artifact, narrow_checkpoint: Path, tmp_path: Path
) -> None:
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(checkpoint, elsewhere)
    assert exported(elsewhere, tmp_path / "a").files == built.files
    beside = exported(narrow_checkpoint, tmp_path / "b", external_over_bytes=0)
    assert DATA in beside.files and DATA not in traced.files
    assert _weights(beside) == _weights(traced)
    assert str(tmp_path).encode() not in (beside.path / GRAPH).read_bytes()
    with pytest.raises(ValueError, match="less than or equal to 1500000000"):
        export.Config(external_over_bytes=2_000_000_000)


def _weights(artifact: Artifact) -> dict[str, bytes]:
    from onnx import numpy_helper

    tensors = load_graph(artifact.path / GRAPH).graph.initializer
    return {tensor.name: numpy_helper.to_array(tensor).tobytes() for tensor in tensors}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"vocab_size": 64}, "would take model.layers.0.mlp"),
        ({"eos_token_ids": (2, 999)}, "end token 999 lies beyond the vocabulary"),
        ({"architecture": "RwkvForCausalLM"}, "does not know architecture RwkvForCausalLM"),
    ],
)
def test_obstacles_are_seen_before_the_builder_runs(
    change: dict[str, Any], words: str, checkpoint: Path
) -> None:
    info = inspect(checkpoint)
    assert builder_obstacles(info) == []
    found = builder_obstacles(dataclasses.replace(info, **change))
    assert words.split(" model")[0] in "; ".join(found)


def test_the_builders_own_table_is_read() -> None:
    known = builder_architectures()
    wanted = {"LlamaForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM", "Gemma3ForCausalLM",
              "MistralForCausalLM", "Phi3ForCausalLM"}  # fmt: skip
    assert wanted <= known


def test_what_no_exporter_knows_is_told_with_what_each_said(
    checkpoint: Path, tmp_path: Path
) -> None:
    broken = tmp_path / "broken"
    shutil.copytree(checkpoint, broken)
    config = json.loads((broken / "config.json").read_text())
    config |= {"architectures": ["NoSuchForCausalLM"], "model_type": "no_such"}
    (broken / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="NoSuchForCausalLM cannot be exported to ONNX") as error:
        exported(broken, tmp_path / "out")
    said = str(error.value)
    for part in ("builder: the builder does not know", "torch (torchscript): ", "torch (dynamo): "):
        assert part in said
    assert "LlamaForCausalLM" in error.value.mend
    assert list((tmp_path / "out").iterdir()) == []


def test_an_exporter_that_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    killed = ["sh", "-c", "kill -9 $$"]
    monkeypatch.setattr(exporter_process, "module_command", lambda *words: killed)
    with pytest.raises(Lack, match="memory ran out"):
        exporter_process.run_exporter("this", [])
