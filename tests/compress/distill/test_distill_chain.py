"""Distillation in a recipe: a fresh student, a cache on the way, what is refused before work."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from distillations import TEXTS
from tiny_models import tiny_bert, tiny_llama

from common.errors import UserError
from toolchain.artifact import Artifact
from toolchain.build import build
from toolchain.chain import run_chain
from toolchain.job import BuildRequest, as_exported, settle

_FEW = "max_steps: 2, batch_size: 4, learning_rate: 3.0e-3"


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("rows") / "rows.jsonl"
    path.write_text("".join(json.dumps({"text": f"{t} {n}"}) + "\n" for n, t in enumerate(TEXTS)))
    return path


def _request(model: Path, root: Path, recipe: str) -> BuildRequest:
    root.mkdir(exist_ok=True)
    path = root / "r.yaml"
    path.write_text(recipe)
    return BuildRequest("laptop", str(model), recipe=str(path), out=root / "build")


def _run(request: BuildRequest) -> tuple[Artifact, ...]:
    return run_chain(settle(request), lambda _line: None).steps


@pytest.mark.usefixtures("in_process")
def test_a_fresh_student_learns_from_a_cache_that_serves_again(
    teacher: Path, rows: Path, tmp_path: Path
) -> None:
    head = f"stages: [distill]\ndata: {{files: [{rows}]}}\n"
    sizes = "student: {layers: 1, width: 32, calibration_tokens: 512}, cache: true, top_k: 8"
    request = _request(teacher, tmp_path / "a", f"{head}distill: {{{sizes}, {_FEW}}}\n")
    _, fresh, cache, taught = _run(request)
    assert [s.stage for s in (fresh, cache, taught)] == ["student", "teacher-cache", "distill"]
    facts = taught.measurements
    assert facts["student_parameters"] == fresh.measurements["student_parameters"]
    assert facts["teacher_parameters"] == fresh.measurements["teacher_parameters"]
    assert facts["cache_top_k"] == 8 and cache.measurements["places"] > 0
    assert taught.digest != fresh.digest
    # The same cache, named for the student as it was: nobody has to say who wrote it.
    named = f"{head}distill: {{teacher_cache: {cache.path}, {_FEW}}}\n"
    again = _run(_request(fresh.path, tmp_path / "b", named))[-1]
    assert again.files["model.safetensors"] == taught.files["model.safetensors"]
    assert again.measurements["teacher_parameters"] == facts["teacher_parameters"]


@pytest.mark.usefixtures("in_process")
def test_variants_are_for_the_teacher_alone(tmp_path: Path) -> None:
    rows = tmp_path / "rows.jsonl"
    labelled = [{"text": f"{text} {n}", "label": n % 2} for n, text in enumerate(4 * TEXTS)]
    rows.write_text("".join(json.dumps(row) + "\n" for row in labelled))
    few = "max_steps: 2, batch_size: 4"
    recipe = f"""\
stages: [finetune, distill]
data: {{files: [{rows}], variants: 4}}
finetune: {{method: full, {few}}}
distill: {{student: {{ratio: 0.5}}, cache: true, {few}}}
"""
    model = tiny_bert(tmp_path / "bert", hidden=64, layers=4, ffn=256)
    data, tuned, _, cache, taught = _run(_request(model, tmp_path / "r", recipe))
    given, made = data.measurements["rows_kept"], data.measurements["rows_variants"]
    assert made > 2 * given
    kept = data.measurements["splits"]["train"]["rows"]
    assert tuned.measurements["train_examples"] == kept
    assert taught.measurements["train_examples"] == kept + made
    assert cache.measurements["places"] >= kept + made


def test_sizes_are_planned_as_the_student_s(teacher: Path, tmp_path: Path) -> None:
    recipe = "stages: [distill, export]\ndata: {own: true}\n"
    sizes = "distill: {student: {ratio: 0.6, width: 32}}\n"
    job = settle(_request(teacher, tmp_path, recipe + sizes))
    planned = as_exported(job).info
    assert planned.parameters <= 0.6 * job.info.parameters
    stored = sum(tensor.elements for tensor in planned.tensors)
    assert stored == planned.parameters  # the head of this one is a tensor of its own
    assert planned.config["hidden_size"] == 32


@pytest.mark.parametrize(
    ("stages", "distill", "told"),
    [
        ("evaluate, distill", "{}", "nobody to learn from: set distill.student"),
        ("evaluate, prune-vocab, distill", "{}", "learns from a model with another vocabulary"),
        ("evaluate, distill", "{teacher: MODEL}", "the same checkpoint"),
        ("evaluate, distill", "{student: OTHER}", "different vocabularies"),
        ("evaluate, distill", "{teacher: OTHER}", "different vocabularies"),
        ("evaluate, distill", "{student: {layers: 9}}", "cannot have layers 9"),
        ("evaluate, distill", "{student: {parameters: 10}}", "no student of at most 10"),
    ],
)
def test_a_pair_that_cannot_work_is_refused_before_any_work(
    stages: str, distill: str, told: str, teacher: Path, tmp_path: Path
) -> None:
    if "OTHER" in distill:
        tiny_llama(tmp_path / "other", hidden=64, ffn=96, vocab=300)
    settings = distill.replace("MODEL", str(teacher)).replace("OTHER", str(tmp_path / "other"))
    recipe = f"stages: [{stages}]\ndata: {{own: true}}\ndistill: {settings}\n"
    said: list[str] = []
    with pytest.raises(UserError, match=told):
        build(_request(teacher, tmp_path, recipe), said.append)
    assert not said
