"""From a case to ranked advice: the rules that hold are added up, option by option.

advice = advise(case, load_rules(), builds)
advice.ranked[0].commands
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.shell import shell_word
from targets.schema import GIB
from toolchain.advise.figures import (
    Built,
    Estimate,
    estimate,
    matching,
    training_bytes,
    training_hours,
)
from toolchain.recipe import RECIPES, Recipe, built_name, read_recipe

if TYPE_CHECKING:
    from toolchain.advise.case import Case
    from toolchain.advise.rules import Note, Option, Rule, Rules


@dataclass(frozen=True)
class Ranked:
    """One option in this case. `hours` is what its training would take, where that is known;
    `training_bytes` the memory for it, `too_long` and `too_large` that it is more than there is."""

    name: str
    option: Option
    score: int
    rules: tuple[Rule, ...]
    commands: tuple[str, ...]
    estimate: Estimate | None
    measured: tuple[Built, ...]
    hours: float | None = None
    training_bytes: int | None = None
    too_long: bool = False
    too_large: bool = False

    @property
    def unfit(self) -> bool:
        """Whether it would not fit the memory even so."""
        return self.estimate is None and not self.option.needs.student


@dataclass(frozen=True)
class Advice:
    """`ranked`, best first; `against` are options that more speaks against than for, `impossible`
    those that lack what they need."""

    ranked: tuple[Ranked, ...]
    against: tuple[Ranked, ...]
    impossible: tuple[Ranked, ...]
    notes: tuple[Note, ...]


def advise(case: Case, rules: Rules, builds: Sequence[Built], out: Path) -> Advice:
    """Every option for this kind of model, with what speaks for and against it in this case."""
    fitting = [n for n, o in rules.options.items() if "kind" not in o.needs.unmet(case)]
    rows = [_rank(name, case, rules, builds, out) for name in fitting]
    rows.sort(key=lambda row: -row.score)
    possible = [r for r in rows if not (r.option.needs.unmet(case) or r.too_long or r.too_large)]
    return Advice(
        ranked=tuple(r for r in possible if r.score > 0),
        against=tuple(r for r in possible if r.score <= 0 and r.rules),
        impossible=tuple(r for r in rows if r not in possible and r.score > 0),
        notes=tuple(note for note in rules.notes if not note.when.unmet(case)),
    )


def _rank(name: str, case: Case, rules: Rules, builds: Sequence[Built], out: Path) -> Ranked:
    option = rules.options[name]
    recipe = read_recipe(option.recipe)
    held = [r for r in rules.rules if r.option == name and not r.when.unmet(case)]
    hours = training_hours(recipe, case, rules)
    memory = training_bytes(option, recipe, case) if case.training != "none" else None
    expected = estimate(option, recipe, case, rules)
    return Ranked(
        name=name,
        option=option,
        score=sum(rule.weight for rule in held),
        rules=tuple(sorted(held, key=lambda rule: -abs(rule.weight))),
        commands=_commands(option, recipe, case, out, expected),
        estimate=expected,
        measured=tuple(matching(builds, option, case)),
        hours=hours,
        training_bytes=memory,
        too_long=hours is not None and case.hours is not None and hours > case.hours,
        too_large=memory is not None
        and case.training_gib is not None
        and memory > case.training_gib * GIB,
    )


def _commands(
    option: Option, recipe: Recipe, case: Case, out: Path, expected: Estimate | None
) -> tuple[str, ...]:
    """The commands with this case filled in; DATA and STUDENT stand for what is not named yet. A
    limit that the target does not know of (memory, latency) needs a type that keeps it by name."""
    limited = expected and (case.memory_gib is not None or case.token_ms is not None)
    student = case.student_named or "STUDENT"
    values = {
        "target": shell_word(case.target_named),
        "model": shell_word(case.model),
        "out": shell_word(str(out)),
        "data": " --data DATA.jsonl" if _wants_data(recipe, case) else "",
        "name_student": shell_word(f"s|^  student: .*|  student: {student}|"),
        "type": f" --quantization {expected.quantization}" if expected and limited else "",
        "recipes": shell_word(_nearest(RECIPES)),
        "bundle": shell_word(str(out / built_name(case.model, recipe) / case.target.name)),
    }
    return tuple(command.format(**values) for command in option.commands)


def _wants_data(recipe: Recipe, case: Case) -> bool:
    return bool(case.examples) or ("finetune" in recipe.stages and not recipe.data.own)


def _nearest(path: Path) -> str:
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)
