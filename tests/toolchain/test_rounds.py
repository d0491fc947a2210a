"""Rounds end where the budget says so, and what broke it is not kept."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from common.errors import UserError
from toolchain.compress.prune.candidates import Unreachable
from toolchain.recipe import Recipe, Rounds, load_recipe
from toolchain.rounds import broken_budget, run_rounds


def measured(perplexity: float | None, score: float) -> Any:
    tasks = {"data": {"scores": {"exact_match": score, "f1": 1.0}}}
    return SimpleNamespace(measurements={"perplexity": perplexity, "tasks": tasks})


def state(parameters: int, rounds: Rounds, *steps: Any) -> Any:
    job = SimpleNamespace(
        recipe=SimpleNamespace(rounds=rounds), info=SimpleNamespace(parameters=parameters)
    )
    return SimpleNamespace(job=job, steps=steps, rolled_back=False)


def run(rounds: Rounds, figures: list[tuple[float, float]]) -> tuple[Any, list[str]]:
    """Rounds that each take a tenth of the parameters and then measure these figures."""
    said: list[str] = []

    def one_round(begun: Any) -> Any:
        found = measured(*figures[len(begun.steps) - 1])
        return state(begun.job.info.parameters * 9 // 10, rounds, *begun.steps, found)

    return run_rounds(state(1000, rounds, measured(10.0, 0.8)), one_round, said.append), said


def test_all_rounds_within_the_budget() -> None:
    last, said = run(Rounds(most=3, max_perplexity_ratio=1.5), [(11, 0.8), (12, 0.8), (14, 0.7)])
    assert last.job.info.parameters == 729 and len(last.steps) == 4 and len(said) == 3


def test_the_round_that_breaks_the_budget_goes() -> None:
    last, said = run(Rounds(most=3, max_perplexity_ratio=1.5), [(11, 0.8), (16, 0.8), (14, 0.7)])
    assert last.job.info.parameters == 900 and len(last.steps) == 2
    assert "perplexity 1.600 times the first, at most 1.5 allowed" in said[-1]
    last, said = run(Rounds(most=3, min_task_share=0.9), [(11, 0.8), (11, 0.7)])
    assert len(last.steps) == 2 and "data exact_match keeps 0.875" in said[-1]


def test_a_round_that_the_ledger_undid_is_the_last() -> None:
    rounds = Rounds(most=3)
    first, undone = state(1000, rounds, measured(10.0, 0.8)), state(1000, rounds)
    undone.rolled_back = True
    assert run_rounds(first, lambda now: undone, lambda line: None) is undone


def test_a_round_that_no_shape_allows_ends_them() -> None:
    said: list[str] = []
    first, smaller = state(1000, Rounds(most=3), measured(10.0, 0.8)), []

    def one_round(begun: Any) -> Any:
        if len(smaller) == 1:
            raise Unreachable("ratio 0.1200 cannot be met")
        smaller.append(state(900, Rounds(most=3), *begun.steps, measured(11.0, 0.8)))
        return smaller[-1]

    assert run_rounds(first, one_round, said.append) is smaller[0]
    assert "round 2 cannot be made (ratio 0.1200 cannot be met): the round before" in said[-1]
    with pytest.raises(Unreachable):
        run_rounds(smaller[0], one_round, said.append)


def test_small_enough_is_enough() -> None:
    last, _ = run(Rounds(most=5, parameters=810), [(11, 0.8)] * 5)
    assert last.job.info.parameters == 810


def test_a_first_round_beyond_the_budget_is_an_error() -> None:
    with pytest.raises(UserError, match="first round breaks the budget: perplexity nan times"):
        run(Rounds(most=2, max_perplexity_ratio=1.5), [(float("nan"), 0.8)])


def test_without_perplexity_the_tasks_decide() -> None:
    rounds = Rounds(most=2, max_perplexity_ratio=1.1, min_task_share=0.9)
    assert broken_budget(measured(None, 0.8), measured(None, 0.8), rounds) is None


@pytest.mark.parametrize(
    ("stages", "fault"),
    [
        (("prune", "evaluate"), "begin and end with evaluate"),
        (("evaluate", "prune"), "begin and end with evaluate"),
    ],
)
def test_rounds_are_measured(stages: tuple[str, ...], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Recipe(stages=stages, rounds=Rounds(most=2))  # type: ignore[arg-type]


def test_a_chain_of_two_rounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The real stages: the second round prunes what the first one left, the original teaches."""
    from tiny_models import tiny_llama
    from train_runs import WORDS

    from toolchain.build import BuildRequest, build
    from toolchain.train.worker import train

    monkeypatch.setattr(  # a process of its own takes longer to start than this training
        "toolchain.train.finetune.run_workers", lambda _file, job, _accelerate: train(job)
    )
    base = tiny_llama(tmp_path / "base", hidden=64, ffn=1024, layers=1)
    recipe = tmp_path / "steps.yaml"
    recipe.write_text(
        "stages: [evaluate, prune, distill, evaluate]\n"
        "rounds: {most: 2}\n"
        f"data: {{files: [{tmp_path / 'rows.jsonl'}]}}\n"
        "prune: {ratio: 0.1, axes: [ffn], score: magnitude, recover: false, candidates: 1}\n"
        "distill: {max_steps: 1, batch_size: 2}\n"
        "evaluate: {max_tokens: 256, context_tokens: 64, task_examples: 1}\n"
    )
    rows = [f'{{"text": "{" ".join(WORDS[n % 5 :])} {n}"}}\n' for n in range(20)]
    (tmp_path / "rows.jsonl").write_text("".join(rows), encoding="utf-8")
    said: list[str] = []
    request = BuildRequest("laptop", str(base), recipe=str(recipe), out=tmp_path / "b")
    build(request, said.append)
    assert said.count("prune …") == said.count("distill …") == 2
    assert said.count("evaluate …") == 3
    from toolchain import artifact as artifacts

    stages = tmp_path / "b/base-steps/.stages"
    taught = [artifacts.load(path) for path in stages.glob("distill-*")]
    figures = sorted(made.measurements["student_parameters"] for made in taught)
    original = taught[0].measurements["teacher_parameters"]
    assert figures[0] < figures[1] < original == taught[1].measurements["teacher_parameters"]


def test_the_shipped_recipe_has_a_budget() -> None:
    assert load_recipe("progressive").rounds.max_perplexity_ratio
