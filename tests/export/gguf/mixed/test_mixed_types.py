"""Settings, sizes and the stage on tiny checkpoints: the file has the types that were chosen."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_models import SENTENCES, tiny_llama

from common.errors import UserError
from common.strict import parse
from runtimes.gguf_file import read_tensor_types
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.intake import open_checkpoint
from toolchain.export.gguf import convert, quantize
from toolchain.export.gguf.mixed import costs, stage
from toolchain.export.gguf.mixed.kept import Kept
from toolchain.export.gguf.mixed.matrices import find_room
from toolchain.export.gguf.mixed.reckon import anchor, reckoned
from toolchain.export.gguf.mixed.sensitivity import Weight, sensitivities
from toolchain.export.gguf.mixed.settings import NARROW_TYPES, WIDE_TYPES, Mixed
from toolchain.hf import torch_model
from toolchain.pipeline import Workspace, run_stage
from toolchain.stage import Input


def silent(_line: str) -> None:
    pass


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Rows of 256 and of 96: the latter are no whole blocks of 256."""
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny", hidden=256, ffn=96, tied=True)


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("texts") / "text.txt"
    path.write_text("\n<|document|>\n".join(SENTENCES * 3), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def plain(model: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Artifact, Artifact]:
    """The unquantized file, and the plain one."""
    source, _ = open_checkpoint(model, None)
    workspace = Workspace(tmp_path_factory.mktemp("files"))
    whole = run_stage(convert, source, convert.Config(model_name="t"), workspace, silent)
    config = quantize.Config(quantization="Q4_K_M")
    return whole, run_stage(quantize, whole, config, workspace, silent)


def chosen(model: Path, text: Path, root: Path, **settings: Any) -> Artifact:
    source, _ = open_checkpoint(model, None)
    own = Mixed(**{"calibration_tokens": 256, **settings})
    config = costs.Config.of(own, calibration=Input.of_file(text))
    measured = Input.of_artifact(run_stage(costs, source, config, Workspace(root), silent))
    wanted = stage.Config(costs=measured, with_imatrix=False, settings=own)
    return run_stage(stage, source, wanted, Workspace(root), silent)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"types": ["Q4_K", "Q5K"]}, "did you mean 'Q5_K'?"),
        ({"size": "Q4_KM"}, "did you mean 'Q4_K_M'?"),
        ({"size": "Q4_K_M", "size_bytes": 10}, "size and size_bytes contradict each other"),
        ({"bits_per_weight": 4.5, "keep_speed": True}, "name it with size, not bits_per_weight"),
    ],
)
def test_settings_that_make_no_sense_are_named(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError, match="mixed") as caught:
        parse(Mixed, settings, "section mixed")
    assert said in str(caught.value)


def test_a_size_is_what_the_plain_file_has(model: Path, plain: tuple[Artifact, Artifact]) -> None:
    room = find_room(inspect(model), Mixed(), with_imatrix=False)
    file = plain[1]
    types = {entry.name: entry.type for entry in read_tensor_types(file.only(".gguf"))}
    assert room.limit_bytes + room.rest_bytes == file.measurements["tensor_bytes"]
    assert {m.name: m.plain for m in room.matrices} == {
        name: kind for name, kind in types.items() if kind != "F32"
    }
    by_name = {m.name: m.types for m in room.matrices}
    assert by_name["blk.0.ffn_up.weight"] == WIDE_TYPES
    assert by_name["blk.0.ffn_down.weight"] == NARROW_TYPES


def test_a_size_that_is_too_small_names_the_nearest(model: Path) -> None:
    with pytest.raises(UserError, match=r"bits_per_weight 2\.0 is too small") as caught:
        find_room(inspect(model), Mixed(bits_per_weight=2), with_imatrix=False)
    nearest = float(caught.value.mend.split("bits_per_weight: ")[1].split(",")[0])
    room = find_room(inspect(model), Mixed(bits_per_weight=nearest), with_imatrix=False)
    assert room.least_bytes <= room.limit_bytes


def test_the_file_has_the_chosen_types_and_the_size(
    model: Path, text: Path, plain: tuple[Artifact, Artifact], tmp_path: Path
) -> None:
    made = chosen(model, text, tmp_path)
    facts = made.measurements
    assert facts["predicted_kld"] <= facts["predicted_plain_kld"] and facts["exact"]
    assert facts["least_kld_bound"] <= facts["predicted_kld"]
    name, tensor_types = stage.read_types(made.path)
    config = quantize.Config(quantization=name, tensor_types=tensor_types, label="mixed")
    whole, reference = plain
    file = run_stage(quantize, whole, config, Workspace(tmp_path), silent)
    assert file.only(".gguf").stat().st_size <= reference.only(".gguf").stat().st_size
    types = {entry.name: entry.type for entry in read_tensor_types(file.only(".gguf"))}
    rows = json.loads((made.path / stage.FILE).read_text())["tensors"]
    assert {row["tensor"]: row["type"] for row in rows} == {
        name: kind for name, kind in types.items() if kind != "F32"
    }
    assert not file.measurements["fallbacks"] and file.measurements["quantization"] == "mixed"


def test_a_cost_is_the_kld_of_a_network_with_this_tensor_quantized(
    model: Path, tmp_path: Path
) -> None:
    from toolchain.compress.exact.rounding import rounded

    chunks = [list(range(40, 104)), list(range(90, 130))]
    names = ("model.layers.1.mlp.up_proj.weight", "model.embed_tokens.weight")
    weights = {name: Weight(name, ("Q3_K", "Q8_0")) for name in names}
    with torch_model(model) as network:
        found = sensitivities(network, chunks, weights, tmp_path, Kept(tmp_path / "kept"))
        before = [network(torch.tensor([chunk])).logits[0].double() for chunk in chunks]
        for name in names:
            own = network.get_parameter(name)
            kept, own.data = own.data, rounded(own.data, "Q3_K")
            after = [network(torch.tensor([chunk])).logits[0].double() for chunk in chunks]
            own.data = kept
            klds = [
                (p.softmax(-1) * (p.log_softmax(-1) - q.log_softmax(-1))).sum(-1)
                for p, q in zip(before, after, strict=True)
            ]
            assert found[name]["Q3_K"] == pytest.approx(float(torch.cat(klds).mean()), rel=1e-3)
            assert 0 < found[name]["Q8_0"] < 0.05 * found[name]["Q3_K"]


def test_what_was_measured_is_not_measured_again(model: Path, tmp_path: Path) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    weights = {name: Weight(name, ("Q4_K",))}
    Kept(tmp_path).add(name, "Q4_K", 0.125)
    with (tmp_path / "costs.jsonl").open("a") as stream:
        stream.write('["blk.0.at')  # as a killed run leaves it
    kept = Kept(tmp_path)
    assert kept.count == 1
    with torch_model(model) as network:
        found = sensitivities(network, [list(range(40, 104))], weights, tmp_path, kept)
    assert found == {name: {"Q4_K": 0.125}}


def test_reckoned_costs_grow_with_the_weighed_error() -> None:
    weight = torch.randn(16, 256, generator=torch.Generator().manual_seed(0)).numpy()
    types = WIDE_TYPES
    found = reckoned(2e-3, weight, types, None)
    assert found[anchor(types)] == pytest.approx(2e-3)
    assert found["Q3_K"] > found["IQ4_XS"] > found["Q5_K"] > found["Q6_K"] > found["Q8_0"] > 0


def test_one_measurement_a_tensor_is_enough_where_that_is_asked(
    model: Path, text: Path, tmp_path: Path
) -> None:
    made = chosen(model, text, tmp_path, measure="one", bits_per_weight=5.0)
    assert made.measurements["measured"] == 15 and made.measurements["reckoned"] > 15
    assert made.measurements["chosen_bytes"] <= made.measurements["limit_bytes"]
    assert made.measurements["predicted_plain_kld"] is None
    shutil.rmtree(tmp_path)
