"""Progressive compression: small steps with a measurement after each, until a budget is reached.

state = run_rounds(state, one_round, say)
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from toolchain.compress.prune.candidates import Unreachable

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.chain import Say, State
    from toolchain.recipe import Rounds


def run_rounds(first: State, one_round: Callable[[State], State], say: Say) -> State:
    """The state after the last round that keeps the budget. `first` was measured; every round ends
    with a measurement. Raises `UserError` when not even one round keeps it."""
    rounds = first.job.recipe.rounds
    before, state = first.steps[-1], first
    for number in range(1, rounds.most + 1):
        try:
            made = one_round(state)
        except Unreachable as none:
            if state is first:
                raise
            say(f"round {number} cannot be made ({none.problem}): the round before is kept")
            break
        if made.rolled_back:  # the recipe's budget from the original ended it
            return made
        parameters = made.job.info.parameters
        say(f"round {number} of at most {rounds.most}: {parameters / 1e6:.2f} M parameters")
        broken = broken_budget(before, made.steps[-1], rounds)
        if broken and state is first:
            raise UserError(
                f"the first round breaks the budget: {broken}",
                "take smaller steps (prune.ratio), train longer, or allow more in rounds",
            )
        if broken:
            say(f"round {number} breaks the budget ({broken}): the round before is kept")
            break
        state = made
        if rounds.parameters is not None and parameters <= rounds.parameters:
            break
    return state


def broken_budget(before: Artifact, after: Artifact, rounds: Rounds) -> str | None:
    """What of the budget the second measurement breaks, in words; None where it keeps it."""
    old, new = before.measurements, after.measurements
    most, least = rounds.max_perplexity_ratio, rounds.min_task_share
    if most is not None and old["perplexity"]:
        ratio = new["perplexity"] / old["perplexity"]
        if not ratio <= most:
            return f"perplexity {ratio:.3f} times the first, at most {most:g} allowed"
    for task, metric, score in _scores(old):
        now = new["tasks"][task]["scores"][metric]
        if least is not None and score and not now / score >= least:
            return f"{task} {metric} keeps {now / score:.3f}, at least {least:g} wanted"
    return None


def _scores(measured: Any) -> list[tuple[str, str, float]]:
    """The first metric of each task."""
    return [
        (task, *next(iter(facts["scores"].items()))) for task, facts in measured["tasks"].items()
    ]
