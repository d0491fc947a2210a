"""Which nodes stay in FP32: trials equal real exclusions, and the set found is minimal."""

from __future__ import annotations

import itertools
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from tiny_encoders import exported, texts, write_rows

from common.files import read_json
from runtimes.ort_encoder import MODEL, OrtEncoder, open_encoder
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.export.onnx import encoder_quantize, sensitivity
from toolchain.export.onnx.encoder_quality import Budget
from toolchain.export.onnx.encoder_quantize import calibration_batches
from toolchain.export.onnx.encoder_trials import Trials
from toolchain.export.onnx.encoder_variants import quantizable_nodes
from toolchain.export.onnx.sensitivity import smallest_set
from toolchain.stage import Input


@pytest.mark.parametrize("needed", [(), ("d",), ("a", "f"), ("b", "c", "g"), tuple("abcdefgh")])
def test_the_set_found_is_exactly_what_is_needed(needed: tuple[str, ...]) -> None:
    asked: list[frozenset[str]] = []

    def passes(names: Any) -> bool:
        asked.append(frozenset(names))
        return set(needed) <= set(names)

    assert set(smallest_set("abcdefgh", passes)) == set(needed)


def test_no_name_can_be_taken_from_the_set_even_where_names_stand_in_for_each_other() -> None:
    worth = {"a": 5, "b": 4, "c": 4, "d": 3, "e": 1}
    for limit in range(sum(worth.values()) + 1):

        def passes(names: Any, limit: int = limit) -> bool:
            return sum(worth[name] for name in names) >= limit

        found = smallest_set("abcde", passes)
        assert passes(found)
        for fewer in itertools.combinations(found, max(0, len(found) - 1)):
            assert len(fewer) == len(found) or not passes(fewer)


@pytest.mark.parametrize("variant", ["int8-dynamic", "int8-block", "int8-static"])
def test_a_trial_is_what_quantizing_with_exclusions_gives(variant: Any, tmp_path: Path) -> None:
    source = exported()
    file = write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in texts(40)])
    data = Input.of_file(file) if variant == "int8-static" else None
    config = encoder_quantize.Config(variant=variant, calibration=data)
    graph = onnx.load(str(source.path / MODEL))
    nodes = quantizable_nodes(graph, embeddings=encoder_quantize.uses_embeddings(config))
    exclude = (nodes[1], nodes[2], nodes[7], nodes[-1])
    (tmp_path / "q").mkdir()
    real = config.model_copy(update={"exclude": exclude})
    encoder_quantize.run(source, real, tmp_path / "q")
    with open_encoder(source.path) as plain:
        batches = calibration_batches(plain, file) if data else []
    with (
        Trials(source.path, config, batches) as trials,
        trials.encoder(exclude) as trial,
        open_encoder(tmp_path / "q") as wanted,
    ):
        batch = trial.inputs_of(trial.encode(texts(12)))
        np.testing.assert_allclose(trial.run(batch), wanted.run(batch), rtol=0, atol=1e-5)
        assert len(onnx.load(str(tmp_path / "q" / MODEL)).graph.node) == len(
            trials.model(exclude).graph.node
        )
    with Trials(source.path, config, batches) as trials, open_encoder(source.path) as plain:
        everything = trials.measured(nodes, lambda model: model.run(batch))
        np.testing.assert_allclose(everything, plain.run(batch), rtol=0, atol=1e-6)


def spoilt(folder: Path) -> tuple[Artifact, str]:
    """The embedding model with one product whose weights have outliers that per-channel INT8
    rounds away: each output channel gets one huge weight for an input that is always near zero."""
    shutil.copytree(exported("embedding").path, folder)
    model = onnx.load(str(folder / MODEL))
    nodes = [n for n in model.graph.node if n.op_type == "MatMul"]
    node = next(n for n in nodes if "layer.0/intermediate" in n.name)
    tensor = next(t for t in model.graph.initializer if t.name == node.input[1])
    weights = numpy_helper.to_array(tensor).copy()
    norm = next(n for n in model.graph.node if n.output[0] == node.input[0])
    for position in (1, 2):
        values = np.full(64, 2.0 - position, np.float32)
        values[5] = 0.0
        norm.input[position] = f"spoilt_{position}"
        model.graph.initializer.append(numpy_helper.from_array(values, norm.input[position]))
    weights[5, :] = 200.0
    tensor.CopyFrom(numpy_helper.from_array(weights, tensor.name))
    onnx.save(model, str(folder / MODEL))
    (folder / artifacts.MANIFEST).unlink()
    facts = dict(exported("embedding").measurements)
    return artifacts.describe(
        folder, format="onnx-encoder", stage="test", measurements=facts
    ), node.name


def test_the_stage_finds_the_node_that_quantization_spoils(tmp_path: Path) -> None:
    source, node = spoilt(tmp_path / "spoilt")
    file = write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in texts(48)])
    config = sensitivity.Config(
        quantize=encoder_quantize.Config(variant="int8-dynamic"),
        measurement=Input.of_file(file),
        budget=Budget(min_cosine_mean=0.98),
        ranking_texts=16,
    )
    (tmp_path / "out").mkdir()
    found = sensitivity.run(source, config, tmp_path / "out")
    assert found.measurements["exclude"] == [node]
    said = read_json(tmp_path / "out" / sensitivity.FILE)
    assert said["rows"][0]["node"] == node and said["rows"][0]["excluded"]
    assert "mean cosine" in said["rows"][0]["needed"]
    assert not any(row["excluded"] for row in said["rows"][1:])
    assert len(said["rows"]) == found.measurements["nodes"] == 15
    assert said["before"]["shortfalls"] and not said["after"]["shortfalls"]
    before, after = (said[when]["figures"]["cosine_mean"] for when in ("before", "after"))
    assert after >= 0.98 > before


def test_within_budget_nothing_is_excluded(tmp_path: Path) -> None:
    file = write_rows(tmp_path / "texts.jsonl", [{"text": text} for text in texts(40)])
    config = sensitivity.Config(
        quantize=encoder_quantize.Config(variant="int8-block"),
        measurement=Input.of_file(file),
        budget=Budget(min_cosine_mean=0.5),
        ranking_texts=8,
    )
    found = sensitivity.analyse(exported("embedding").path, config)
    assert found.exclude == () and found.trials == 1
    assert all(isinstance(row.gain, float) for row in found.rows)


def test_encoders_are_closed_and_files_go(tmp_path: Path) -> None:
    config = encoder_quantize.Config(variant="int8-block")
    with Trials(exported("embedding").path, config) as trials:
        place = trials._place
        assert isinstance(trials.encoder(()), OrtEncoder)
        assert (place / MODEL).is_file()
    assert not place.exists()
