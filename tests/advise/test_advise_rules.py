"""The rules are data that hold together, and their advice is that of the field's rule tables."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest

from toolchain.advise.case import Case, device_of, settle_case
from toolchain.advise.rank import Advice, advise
from toolchain.advise.rules import load_rules
from toolchain.cli import VERBS, _parser
from toolchain.recipe import recipe_names

ROOT = Path(__file__).resolve().parents[2]
RULES = load_rules()
OUT = Path("build")
NUMBER = re.compile(r"\d+(?:\.\d+)?")


@pytest.fixture(scope="module")
def case() -> Case:
    """The demo model on the default device, nothing answered."""
    return settle_case({}, model="demo", target=None, student=None, rules=RULES)


def advice_for(case: Case, **facts: Any) -> Advice:
    """The advice when the case has these facts. `fits` and `fast_enough` are what the plan would
    say: no candidate fits, or each is slower than was asked for."""
    if "device" in facts:
        from targets.registry import load_target

        facts["target"] = load_target(RULES.targets[facts["device"]])
    if facts.pop("fits", True) is False:
        for name in ("candidates", "named"):
            tried = getattr(case, name)
            facts[name] = tuple(dataclasses.replace(c, fits=False) for c in tried)
    if facts.pop("fast_enough", True) is False:
        facts["token_ms"] = 1e-6
    return advise(dataclasses.replace(case, **facts), RULES, (), OUT)


def first(advice: Advice) -> str:
    return advice.ranked[0].name


def names(rows: tuple[Any, ...]) -> set[str]:
    return {row.name for row in rows}


def test_every_option_is_a_shipped_recipe_with_something_for_it() -> None:
    assert {option.recipe for option in RULES.options.values()} <= set(recipe_names())
    assert {r.option for r in RULES.rules if r.weight > 0} == set(RULES.options)


def test_the_rules_cover_every_kind_of_device() -> None:
    from targets.registry import load_target

    assert {d for rule in RULES.rules for d in rule.when.device} == set(RULES.targets)
    for device, target in RULES.targets.items():
        assert device_of(load_target(target)) == device


def test_both_languages_say_the_same_figures() -> None:
    for name, option in RULES.options.items():
        for expected in option.expect:
            english = sorted(NUMBER.findall(expected.en))
            shown = expected.zh.replace("700 万", "7M")
            assert sorted(NUMBER.findall(shown)) == english, name


def test_figures_of_the_docs_stand_in_the_docs() -> None:
    pages = [e for option in RULES.options.values() for e in option.expect if e.in_project]
    assert len(pages) >= 5
    for expected in pages:
        text = (ROOT / expected.source).read_text(encoding="utf-8")
        missing = [number for number in NUMBER.findall(expected.en) if number not in text]
        assert not missing, f"{expected.source} does not say {missing}"


def test_every_command_is_one_that_the_command_line_takes(case: Case) -> None:
    """Each in a case with data and a student, parsed as its verb parses it."""
    import importlib
    import shlex

    rich = dataclasses.replace(
        case, labelled=5000, training="gpu", student_named="a student", model="my model"
    )
    rows = advise(rich, RULES, (), OUT)
    commands = [c for r in (*rows.ranked, *rows.against, *rows.impossible) for c in r.commands]
    ours = [shlex.split(command) for command in commands if command.startswith("edgeforge ")]
    assert len(ours) >= 8
    for _, verb, *rest in ours:
        args = _parser(verb, importlib.import_module(VERBS[verb])).parse_args(rest)
        assert verb == "chat" or args.model == "my model"


def test_the_student_is_named_in_a_copy_of_the_recipe(
    case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The `sed` command leaves a recipe that names the student."""
    import subprocess

    from toolchain.recipe import read_recipe

    monkeypatch.chdir(tmp_path)
    rich = dataclasses.replace(case, labelled=500, training="gpu", student_named="small/model")
    rows = {row.name: row for row in advise(rich, RULES, (), OUT).ranked}
    for name in ("distill", "finetune-distill", "distill-lora"):
        subprocess.run(rows[name].commands[0], shell=True, check=True)
        recipe = read_recipe(str(tmp_path / f"my-{name}.yaml"))
        assert recipe.distill.student == "small/model"


DATA = {"training": "gpu", "labelled": 20_000}
TABLE = [
    # Quantize first.
    ({}, "quantize"),
    ({"goal": "speed"}, "quantize"),
    ({"goal": "speed", "device": "server-cpu"}, "quantize"),
    ({"goal": "memory", "device": "phone"}, "quantize"),
    ({"goal": "memory", "device": "server-gpu", **DATA}, "quantize"),
    ({"goal": "quality", "quality": "highest"}, "quantize-8-bit"),
    # Prune, with structure, only where quantization is not enough.
    ({"fits": False, "training": "cpu"}, "prune-lora"),
    ({"fast_enough": False, "training": "cpu"}, "prune-lora"),
    # Distil where there are data and compute.
    ({"fits": False, "student_named": "s", "training": "gpu", "unlabelled": 50_000}, "distill"),
    ({"fits": False, **DATA}, "prune-distill-lora"),
    (
        {"fast_enough": False, "student_named": "s", "training": "cpu", "unlabelled": 500},
        "distill-lora",
    ),
    # Fine-tune, not compress, where quality is the need and the resources are there.
    ({"goal": "quality", "quality": "highest", "device": "server-gpu", **DATA}, "finetune"),
    ({"goal": "task", **DATA}, "finetune"),
    # A prompt where data are scarce.
    ({"goal": "task", "labelled": 20, "training": "gpu"}, "prompt"),
    ({"goal": "task"}, "prompt"),
]


@pytest.mark.parametrize(("facts", "expected"), TABLE)
def test_the_first_option_is_that_of_the_rule_tables(
    case: Case, facts: dict[str, Any], expected: str
) -> None:
    assert first(advice_for(case, **facts)) == expected


def test_pruning_is_advised_against_where_quality_is_all(case: Case) -> None:
    advice = advice_for(case, goal="quality", quality="highest", training="gpu")
    assert {"prune-lora", "prune-distill-lora"} <= names(advice.against)


def test_what_needs_hardware_is_not_advised_without_it(case: Case) -> None:
    advice = advice_for(case, labelled=20_000, fits=False, student_named="s")
    trained = {name for name, o in RULES.options.items() if o.needs.training}
    assert not trained & names(advice.ranked)
    assert {"prune-lora", "distill"} <= names(advice.impossible)
    assert any("smaller model of the family" in note.words.en for note in advice.notes)


def test_a_training_that_takes_too_long_is_not_advised(case: Case) -> None:
    large = dataclasses.replace(case.info, parameters=8_000_000_000)
    facts = {"info": large, "goal": "quality", "training": "cpu", "unlabelled": 1000}
    row = next(r for r in advice_for(case, **facts).ranked if r.name == "exact-q4")
    assert row.hours is not None and row.hours > 100  # 9e16 operations at 1.3e11 a second
    late = next(r for r in advice_for(case, **facts, hours=8).impossible if r.name == "exact-q4")
    assert late.too_long


def test_a_training_that_takes_too_much_memory_is_not_advised(case: Case) -> None:
    """22 bytes a weight for all of them, their teacher and rounded values; 2 for an adapter."""
    large = dataclasses.replace(case.info, parameters=8_000_000_000)
    advice = advice_for(case, info=large, training="gpu", labelled=1000, training_gib=24.0)
    held = {row.name: row.training_bytes for row in (*advice.ranked, *advice.impossible)}
    assert held["exact-q4"] == 22 * 8_000_000_000
    assert held["finetune"] == 2 * 8_000_000_000
    assert {row.name for row in advice.impossible if row.too_large} >= {"exact-q4"}
    assert {"finetune", "prune-lora"} <= names(advice.ranked)


def test_pruning_is_estimated_smaller_and_faster(case: Case) -> None:
    rows = {r.name: r.estimate for r in advice_for(case, training="gpu", hours=None).ranked}
    whole, pruned = rows["quantize"], rows["prune-lora"]
    assert whole is not None and pruned is not None
    assert pruned.size_bytes == pytest.approx(0.8 * whole.size_bytes, rel=1e-6)
    assert pruned.decode_tokens_per_sec == pytest.approx(whole.decode_tokens_per_sec / 0.8)
