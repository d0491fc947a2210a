"""Recipes are strict, and their defaults live in one place."""

from pathlib import Path

import pytest
import yaml

from common.errors import UserError
from toolchain.recipe import Recipe, load_recipe, recipe_names


def test_shipped_recipes_load() -> None:
    assert "export" in recipe_names()
    for name in recipe_names():
        assert load_recipe(name).name == name


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
