"""The ledger's arithmetic, and what becomes of a stage that breaks a budget, on the real stages."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from report_facts import entries
from tiny_models import tiny_llama

from common.errors import UserError
from toolchain.artifact import Artifact
from toolchain.chain import State, run_chain
from toolchain.export.exported import Exported
from toolchain.job import BuildRequest, settle
from toolchain.ledger.budget import broken
from toolchain.ledger.entry import efficiency, fp32_ratio, read_entry, share_kept
from toolchain.ledger.file import as_json, read_ledger, with_costs
from toolchain.ledger.keep import Ledger, exported_within
from toolchain.plan import ModelPlan, model_shape, plan_stored

RECIPE = """\
stages: [evaluate, prune, evaluate, prune-vocab]
prune: {ratio: 0.3, calibration_tokens: 512, candidates: 1, axes: [ffn]}
vocabulary: {text: [kept.txt], multiple: 1, verify: false}
evaluate: {max_tokens: 256, context_tokens: 64}
"""


def test_ratios_and_changes() -> None:
    original, pruned, last = entries()
    data = as_json(Ledger(entries()), {})["entries"]
    assert data[2]["compression_ratio"] == 4 and fp32_ratio(last, original) == 8
    assert data[2]["to_stage_before"]["size_ratio"] == pytest.approx(2.5 / 8)
    assert data[2]["to_stage_before"]["kld_mean_change"] == pytest.approx(0.07)
    assert data[2]["to_original"]["kld_mean_change"] == pytest.approx(0.09)
    assert efficiency(original, original) == 1
    assert efficiency(pruned, original) == pytest.approx(0.96 / 0.98 * 1.25 * 1100 / 900)
    assert [read_entry(line) for line in data] == list(entries())


def test_scores_are_compared_metric_by_metric() -> None:
    original, pruned, _ = entries()
    asked = {"data": {"f1": 0.5, "exact_match": 0.4}, "checkpoint": {"exact_match": 0.9}}
    before = dataclasses.replace(original, tasks=asked)
    after = dataclasses.replace(pruned, tasks={"data": {"exact_match": 0.3}})
    assert share_kept(after, before) == pytest.approx(0.75)
    assert share_kept(dataclasses.replace(pruned, tasks={}), before) is None


def test_budgets_name_what_is_broken() -> None:
    original, pruned, last = entries()
    budget = {"max_total_kld": 0.05, "min_total_task_share": 0.975, "max_file_bytes": 2_000_000}
    assert not broken(pruned, original, budget)
    found = {fault.budget: fault.measured for fault in broken(last, original, budget)}
    assert found == {"max_total_kld": 0.09, "min_total_task_share": pytest.approx(0.95 / 0.98)}
    whole = broken(last, original, budget, exported=True)
    assert [fault.budget for fault in whole][-1] == "max_file_bytes"
    unmeasured = broken(read_entry({**pruned.as_json(), "kld_mean": None}), original, budget)
    assert "cannot be measured" in unmeasured[0].text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("ledger")
    tiny_llama(made / "tiny", hidden=64, ffn=256)
    (made / "kept.txt").write_text("Turn on the lamp.\n" * 40)
    return made


def chain(folder: Path, more: str = "") -> tuple[State, list[str]]:
    recipe = folder / "r.yaml"
    recipe.write_text(RECIPE + more)
    asked = BuildRequest("laptop", str(folder / "tiny"), recipe=str(recipe), out=folder / "build")
    said: list[str] = []
    return run_chain(settle(asked), said.append), said


def test_every_stage_has_an_entry(folder: Path, tmp_path: Path) -> None:
    state, _ = chain(folder)
    assert state.ledger is not None
    first, pruned, cut = state.ledger.entries
    assert [e.stage for e in state.ledger.entries] == ["original", "prune", "prune-vocab"]
    assert first.kld_mean == 0 and pruned.kld_mean is not None and pruned.kld_mean > 0
    assert pruned.perplexity != first.perplexity and pruned.positions == first.positions == 256
    assert pruned.parameters < first.parameters and pruned.size_bytes < first.size_bytes
    assert first.planned and pruned.planned
    assert pruned.planned.memory_bytes < first.planned.memory_bytes
    # Another vocabulary: perplexity of its own tokens, no divergence.
    assert cut.kld_mean is None and cut.perplexity and cut.parameters < pruned.parameters

    whole = with_costs(as_json(state.ledger, {}), state.job.workspace.events)
    costs = [entry["cost"] for entry in whole["entries"]]
    assert costs[0] is None and all(c["wall_sec"] > 0 for c in costs[1:])
    assert all(c["peak_rss_bytes"] > 10_000_000 for c in costs[1:])
    (tmp_path / "ledger.json").write_text(json.dumps(whole))
    assert read_ledger(tmp_path / "ledger.json")["entries"][1]["stage"] == "prune"


def test_a_broken_budget_stops_the_build_at_its_stage(folder: Path) -> None:
    with pytest.raises(UserError) as caught:
        chain(folder, "quality: {max_total_kld: 1.0e-9}\n")
    text = str(caught.value)
    assert "stage 'prune' breaks the budget: quality.max_total_kld: measured" in text
    assert "1e-09 at most is allowed" in text and "stage 'original'" in text and "roll_back" in text


def test_a_broken_budget_is_rolled_back(folder: Path) -> None:
    budget = "quality: {max_total_kld: 1.0e-9, on_broken: roll_back}\n"
    state, said = chain(folder, budget)
    assert state.ledger is not None and state.rolled_back
    assert [(e.stage, e.kept) for e in state.ledger.entries] == [
        ("original", True),
        ("prune", False),
    ]
    assert state.job.source.path == folder / "tiny" and state.ledger.last.stage == "original"
    assert any(line.startswith("rolled back to stage 'original'") for line in said)
    fault = as_json(state.ledger, state.job.budget)["rolled_back"][0]
    assert (fault["stage"], fault["budget"], fault["allowed"]) == ("prune", "max_total_kld", 1e-9)


@pytest.mark.parametrize(
    ("more", "fault"),
    [
        ("quality: {max_total_kld: 0.1}\nledger: false\n", "set ledger to true"),
        ("quality: {on_broken: shrug}\n", "on_broken"),
        ("quality: {max_file_bytes: 0}\n", "max_file_bytes"),
    ],
)
def test_budgets_that_nothing_would_be_held_against(folder: Path, more: str, fault: str) -> None:
    with pytest.raises(UserError, match=fault):
        chain(folder, more)


def test_without_the_ledger_stages_are_not_measured(folder: Path) -> None:
    state, said = chain(folder, "ledger: false\n")
    assert state.ledger is not None and not any(line.startswith("probe") for line in said)
    assert [entry.kld_mean for entry in state.ledger.entries] == [0.0, None, None]


def test_a_file_beyond_the_budget_takes_the_stages_back(folder: Path) -> None:
    more = "ledger: false\nquality: {max_file_bytes: 1000, on_broken: roll_back}\n"
    state, said = chain(folder, more)
    facts = {"quantization": "Q8_0", "size_bytes": 5000, "bits_per_weight": 8.5}
    file = Artifact(folder / "file", "gguf", {}, "quantize", measurements=facts)
    found = Artifact(folder / "found", "quality", {}, "quality", measurements={"task": None})
    exported = Exported(file, (), found, found, found, (), within_budget=True)
    info, target = state.job.info, state.job.target
    plan = ModelPlan(model_shape(info), plan_stored(info, target))
    for stage in ("prune", "original"):
        state = exported_within(state, plan, exported, said.append)
        assert state.ledger is not None and state.ledger.last.stage == stage
        assert f"rolled back to stage '{stage}': quality.max_file_bytes" in said[-1]
    assert state.job.source.path == folder / "tiny"
    with pytest.raises(UserError, match="nothing before it is within budget"):
        exported_within(state, plan, exported, said.append)
