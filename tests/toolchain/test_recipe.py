"""Recipes are strict, and their defaults live in one place."""

from pathlib import Path

import pytest
import yaml

from common.errors import UserError
from toolchain.recipe import Recipe, built_name, load_recipe, read_recipe, recipe_names


def test_shipped_recipes_load() -> None:
    assert "export" in recipe_names()
    for name in recipe_names():
        assert read_recipe(name).name == name


def test_the_default_recipe_states_exactly_the_defaults() -> None:
    shipped = load_recipe(None).model_dump(exclude={"name", "description"})
    assert shipped == Recipe().model_dump(exclude={"name", "description"})


def test_unknown_recipe_suggests(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean 'export'"):
        load_recipe("exprot")
    with pytest.raises(UserError, match="does not exist"):
        load_recipe(str(tmp_path / "none.yaml"))


def test_all_faults_of_a_recipe_at_once(tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(
        yaml.safe_dump({"exprot": {}, "evaluate": {"max_tokens": "many"}, "stages": ["smoke"]})
    )
    with pytest.raises(UserError) as caught:
        load_recipe(str(path))
    text = str(caught.value)
    assert "3 faults" in text
    assert "did you mean 'export'" in text
    assert "evaluate.max_tokens" in text
    assert "in this order" in text


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "calm.txt").write_text("text")
    path = tmp_path / "r.yaml"
    path.write_text("export: {calibration: calm.txt}\n")
    assert load_recipe(str(path)).export.calibration == tmp_path / "calm.txt"
    path.write_text("export: {calibration: gone.txt}\n")
    with pytest.raises(UserError, match=r"export\.calibration"):
        load_recipe(str(path))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        ("stages: [merge, export]", "'merge' has no adapter"),
        ("stages: [finetune, export]", "put merge after finetune"),
        ("stages: [finetune, finetune]", "put merge between"),
        ("stages: [export, evaluate]", "in this order"),
        ("stages: [finetune, merge, export]", "names no data"),
        ("merge: {separate: true}\nstages: [finetune, merge, finetune]", "comes last"),
        (
            "merge: {separate: true}\nfinetune: {dora: true}\nstages: [finetune, merge]",
            "need a merge",
        ),
        ("data: {files: [gone.csv]}\nstages: [finetune]", r"data\.files.*gone\.csv"),
    ],
)
def test_an_order_that_makes_no_sense_is_refused(content: str, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "r.yaml"
    path.write_text(content)
    with pytest.raises(UserError, match=fault):
        load_recipe(str(path))


def test_what_changed_the_model_may_be_taught_by_its_original() -> None:
    assert Recipe(stages=("prune", "distill")).distill.student is None
    for name in ("distill", "distill-lora", "finetune-distill"):
        assert read_recipe(name).distill.fresh, name


def test_a_whole_model_needs_no_merge(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("")
    path = tmp_path / "r.yaml"
    stages = "stages: [finetune, export]"
    path.write_text(f"finetune: {{method: full}}\ndata: {{files: [a.jsonl]}}\n{stages}")
    assert load_recipe(str(path)).chain == ("finetune",)


def test_data_given_goes_before_the_recipes_own(tmp_path: Path) -> None:
    given = tmp_path / "mine.csv"
    given.write_text("question,answer\n")
    assert load_recipe("finetune", [given]).data.files == (given,)
    with pytest.raises(UserError, match="trains nothing"):
        load_recipe("export", [given])


def test_what_a_chain_makes_has_a_name_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "my recipe.yaml"
    path.write_text("stages: [evaluate, export]")
    assert built_name("demo", read_recipe(None)) == "edgeforge-demo"
    assert built_name("demo", read_recipe(str(path))) == "edgeforge-demo-my-recipe"


def test_a_vocabulary_is_cut_on_a_whole_model(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("text")
    path = tmp_path / "r.yaml"
    recipe = {"stages": ["prune-vocab", "export"], "vocabulary": {"text": ["kept.txt"]}}
    path.write_text(yaml.safe_dump(recipe))
    assert read_recipe(str(path)).chain == ("prune-vocab",)
    assert load_recipe(str(path)).vocabulary.text == (tmp_path / "kept.txt",)
    recipe = {"stages": ["finetune", "prune-vocab", "merge", "export"], "data": {"own": True}}
    path.write_text(yaml.safe_dump(recipe))
    with pytest.raises(UserError, match="'prune-vocab' takes a whole model"):
        load_recipe(str(path))
