"""The chain goes on with blocks of the model's own only where they beat plain quantization."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from tiny_models import SENTENCES, tiny_llama

from toolchain.chain import run_chain
from toolchain.compress.exact.sidecar import is_exact, read_plan
from toolchain.job import BuildRequest, Job, settle
from toolchain.train.job import TrainJob

_RECIPE = """
stages: [distill]
data: {{files: [{data}], split: [0.5, 0.25, 0.25]}}
distill: {{exact: Q4_0, learning_rate: {rate}, max_steps: {steps}, batch_size: 4, max_tokens: 64,
  keep: last}}
"""


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    def run(_job_file: Path, job: TrainJob, _accelerate: Path | None) -> None:
        from toolchain.train.worker import train

        train(job)

    monkeypatch.setattr("toolchain.train.finetune.run_workers", run)
    model = tiny_llama(tmp_path / "model", hidden=64, ffn=96)
    data = tmp_path / "texts.jsonl"
    rows = [{"text": f"{sentence} {n}"} for n in range(4) for sentence in SENTENCES]
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(_RECIPE.format(data=data, rate=0.5, steps=2))  # it tears the model apart
    return settle(BuildRequest("laptop", str(model), recipe=str(recipe), out=tmp_path / "build"))


def test_what_loses_more_than_plain_is_not_exported(job: Job) -> None:
    said: list[str] = []
    state = run_chain(job, said.append)
    after, steps = state.job, state.steps
    assert [step.stage for step in steps] == ["prepare", "distill", "exact-quality"]
    near, far = steps[-1].measurements["texts"]
    assert near["exact_kld"] > near["plain_kld"] and (near["kind"], far["kind"]) == ("near", "far")
    assert any("the plain file is kept" in line for line in said)
    assert is_exact(steps[1].path) and not is_exact(after.source.path)
    assert after.source.digest == job.source.digest and after.unquantized is None
    assert after.quantization == "Q4_0"


def test_mixed_types_are_chosen_before_the_rounding_into_them(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model", hidden=64, ffn=96)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "stages: [gptq]\ngptq: {quantization: mixed, calibration_tokens: 1024}\n"
        "mixed: {size: Q5_0, calibration_tokens: 256, measure: one}\n"
        "export: {calibration_tokens: 1024}\nevaluate: {max_tokens: 1024}\n"
    )
    said: list[str] = []
    job = settle(BuildRequest("laptop", str(model), recipe=str(recipe), out=tmp_path / "build"))
    state = run_chain(job, said.append)
    assert [step.stage for step in state.steps] == ["mixed-types", "gptq", "exact-quality"]
    types, rounded, measured = state.steps
    plan = read_plan(rounded.path)
    assert plan is not None and plan.label == "mixed" and plan.quantization == "Q5_0"
    assert Counter(plan.types.values()) == types.measurements["types"]
    assert measured.measurements["quantization"] == "mixed"


def test_blocks_rounded_by_calibration_go_on_in_the_place_of_the_model(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model", hidden=64, ffn=96)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "stages: [gptq]\ngptq: {calibration_tokens: 1024}\n"
        "export: {calibration_tokens: 1024}\nevaluate: {max_tokens: 1024}\n"
    )
    job = settle(BuildRequest("laptop", str(model), recipe=str(recipe), out=tmp_path / "build"))
    said: list[str] = []
    state = run_chain(job, said.append)
    after, steps = state.job, state.steps
    assert [step.stage for step in steps] == ["gptq", "exact-quality"]
    measured = steps[1].measurements
    better = all(row["exact_kld"] <= row["plain_kld"] for row in measured["texts"])
    assert measured["kept"] == ("exact" if better else "plain") and measured["maker"] == "gptq"
    assert any("Q4_0 rounded by calibration: KLD" in line for line in said)
    assert is_exact(after.source.path) == better
    assert (after.unquantized is not None) == better and after.quantization == "Q4_0"


def test_scales_that_were_moved_go_on_in_the_place_of_the_model(tmp_path: Path) -> None:
    model = tiny_llama(tmp_path / "model", hidden=64, ffn=96)
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        "stages: [awq]\nawq: {calibration_tokens: 1024, steps: 3}\n"
        "export: {calibration_tokens: 1024}\nevaluate: {max_tokens: 1024}\n"
    )
    job = settle(BuildRequest("laptop", str(model), recipe=str(recipe), out=tmp_path / "build"))
    said: list[str] = []
    state = run_chain(job, said.append)
    measured = state.steps[1].measurements
    better = all(row["exact_kld"] <= row["plain_kld"] for row in measured["texts"])
    assert [step.stage for step in state.steps] == ["awq", "exact-quality"]
    assert measured["maker"] == "awq" and measured["kept"] == ("exact" if better else "plain")
    assert any("Q4_0 with its scales moved: KLD" in line for line in said)
    assert (state.job.source.digest == state.steps[0].digest) == better
    assert state.job.unquantized is None and state.job.quantization == "Q4_0"
