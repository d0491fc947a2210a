"""What a build settles before any work: rooms, budgets, texts."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tiny_models import tiny_llama

from common.errors import UserError
from toolchain.job import BuildRequest, Job, plan_of, require_room, settle


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model") / "tiny", hidden=64, ffn=96)


def settled(checkpoint: Path, out: Path, recipe: str = "") -> Job:
    path = out / "recipe.yaml"
    path.write_text(recipe)
    return settle(BuildRequest("laptop", str(checkpoint), recipe=str(path), out=out / "build"))


def test_the_recipe_overrides_the_targets_budget(checkpoint: Path, tmp_path: Path) -> None:
    target = settled(checkpoint, tmp_path).target.quality
    job = settled(checkpoint, tmp_path, "quality: {max_kld: 0.007}\n")
    assert job.budget == {"max_kld": 0.007, "min_task_share": target.min_task_share}
    assert job.bundle == tmp_path / "build" / "tiny" / "laptop"


def test_too_little_disk_is_refused_before_work(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = settled(checkpoint, tmp_path)
    plan = plan_of(job)
    require_room(job, plan)
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    with pytest.raises(UserError, match="not enough disk for building tiny"):
        require_room(job, plan)


def test_too_little_memory_is_refused_before_work(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = settled(checkpoint, tmp_path)
    monkeypatch.setattr("toolchain.hf.free_memory_bytes", lambda: 10_000_000)
    with pytest.raises(UserError, match="not enough memory to prove tiny"):
        require_room(job, plan_of(job))


def test_calibrating_on_the_evaluation_text_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    text = tmp_path / "text.txt"
    text.write_text("one document with some words in it\n<|document|>\nanother one\n")
    recipe = f"export: {{calibration: {text}}}\nevaluate: {{text: {text}}}\n"
    with pytest.raises(UserError, match="share 2 documents"):
        settled(checkpoint, tmp_path, recipe)


def test_blocks_that_are_trained_are_exported(checkpoint: Path, tmp_path: Path) -> None:
    recipe = "stages: [distill, export]\ndata: {own: true}\ndistill: {exact: q4_k}\n"
    assert settled(checkpoint, tmp_path, recipe).quantization == "Q4_K_M"
    with pytest.raises(UserError, match="makes the blocks of Q4_K_M, but the export makes Q8_0"):
        settled(checkpoint, tmp_path, f"{recipe}export: {{quantization: Q8_0}}\n")
    with pytest.raises(UserError, match=r"the export makes int8-mixed \(onnx\)"):
        settled(checkpoint, tmp_path, f"{recipe}export: {{quantization: int8-mixed}}\n")
    with pytest.raises(UserError, match="prune after 'distill' would change the blocks"):
        settled(checkpoint, tmp_path, recipe.replace("distill, export", "distill, prune, export"))


def test_blocks_that_are_rounded_by_calibration_are_exported(
    checkpoint: Path, tmp_path: Path
) -> None:
    recipe = "stages: [gptq, export]\ngptq: {quantization: q8_0}\n"
    assert settled(checkpoint, tmp_path, recipe).quantization == "Q8_0"
    with pytest.raises(UserError, match=r"gptq\.quantization makes the blocks of Q8_0, but the"):
        settled(checkpoint, tmp_path, f"{recipe}export: {{quantization: Q4_0}}\n")
    with pytest.raises(UserError, match="prune after 'gptq' would change the blocks"):
        settled(checkpoint, tmp_path, recipe.replace("gptq, export", "gptq, prune, export"))


@pytest.mark.parametrize(("made", "exported"), [("q4_0", "int4-block"), ("q8_0", "int8-block32")])
def test_onnx_has_the_blocks_of_two_types(
    checkpoint: Path, tmp_path: Path, made: str, exported: str
) -> None:
    recipe = f"stages: [gptq, export]\ngptq: {{quantization: {made}}}\nexport: {{format: onnx}}\n"
    assert settled(checkpoint, tmp_path, recipe).quantization == exported
    with pytest.raises(UserError, match=r"of ONNX: int4-block is Q4_0, int8-block32 is Q8_0"):
        settled(checkpoint, tmp_path, recipe.replace(made, "q4_k"))


def test_mixed_types_are_a_quantization_of_their_own(checkpoint: Path, tmp_path: Path) -> None:
    job = settled(checkpoint, tmp_path, "export: {quantization: Mixed}\n")
    assert (job.quantization, job.backend) == ("mixed", "gguf")
    [candidate] = plan_of(job).plan.candidates
    plain = plan_of(settled(checkpoint, tmp_path, "export: {quantization: Q4_K_M}\n"))
    assert candidate.size.weights_bytes == plain.plan.candidates[0].size.weights_bytes
    recipe = "stages: [gptq, export]\ngptq: {quantization: mixed}\n"
    assert settled(checkpoint, tmp_path, recipe).quantization == "mixed"
    with pytest.raises(UserError, match=r"and export\.tensor_types says types too"):
        settled(
            checkpoint,
            tmp_path,
            "export: {quantization: mixed, tensor_types: {ffn_down: q8_0}}\n",
        )
    with pytest.raises(UserError, match=r"mixed\.bits_per_weight 3\.0 is too small"):
        plan_of(
            settled(
                checkpoint,
                tmp_path,
                "export: {quantization: mixed}\nmixed: {bits_per_weight: 3}\n",
            )
        )


def test_auto_tries_mixed_types_behind_the_candidate_of_their_size(
    checkpoint: Path, tmp_path: Path
) -> None:
    assert "mixed" not in plan_of(settled(checkpoint, tmp_path)).order
    order = plan_of(settled(checkpoint, tmp_path, "mixed: {auto: true}\n")).order
    assert order[:3] == ("Q4_K_M", "mixed", "Q5_K_M")


def test_blocks_are_trained_on_general_text_beside_the_model_s_own(
    checkpoint: Path, tmp_path: Path
) -> None:
    recipe = "stages: [distill, export]\ndata: {own: true}\ndistill: {exact: Q4_0}\n"
    assert len(settled(checkpoint, tmp_path, recipe).data) == 1  # which is the project's text
    model = Path(shutil.copytree(checkpoint, tmp_path / "own"))
    (model / "edgeforge").mkdir()
    row = json.dumps({"text": "the model's own words"})
    for name in ("train", "calibration"):
        (model / "edgeforge" / f"{name}.jsonl").write_text(f"{row} \n")
    own, general = settled(model, tmp_path, recipe).data
    assert (
        own.path.name == "train.jsonl" and "the model's own words" not in general.path.read_text()
    )
    plain = recipe.replace("distill: {exact: Q4_0}", f"distill: {{teacher: {checkpoint}}}")
    assert len(settled(model, tmp_path, plain).data) == 1


def test_a_type_that_does_not_exist_suggests(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Q4_K_M"):
        settle(BuildRequest("laptop", str(checkpoint), quantization="Q4_KM", out=tmp_path))
