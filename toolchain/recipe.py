"""Recipes: one YAML file says which stages run; the target's profile supplies what it leaves out.

edgeforge build --target laptop --recipe my-recipe.yaml
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator

from common.errors import UserError, near_names
from common.strict import Strict, parse, read_yaml

DEFAULT_RECIPE = "export"
_RECIPES = Path(__file__).parent / "recipes"

StageName = Literal["export", "bundle", "smoke"]
Scalar = bool | int | float | str


class Export(Strict):
    """GGUF export."""

    quantization: str = "auto"
    intermediate: Literal["auto", "f32", "f16", "bf16"] = "auto"
    imatrix: bool = True
    calibration: Path | None = None
    calibration_tokens: int = Field(default=16384, ge=512)
    tensor_types: dict[str, str] = Field(default_factory=dict)
    pure: bool = False


class Evaluate(Strict):
    """The proof that the exported file still is the same model."""

    text: Path | None = None
    max_tokens: int = Field(default=4096, ge=256)
    context_tokens: int = Field(default=512, ge=32)
    task: Path | None = None
    task_examples: int = Field(default=200, ge=1)


class Quality(Strict):
    """The quality budget; what is left out comes from the target's profile."""

    max_kld: float | None = Field(default=None, gt=0)
    min_task_share: float | None = Field(default=None, ge=0, le=1)


class Ollama(Strict):
    """What the Modelfile says beyond profile and generation config."""

    system: str | None = None
    parameters: dict[str, Scalar] = Field(default_factory=dict)


class Recipe(Strict):
    """A whole recipe. `stages` run in the order given; `export` makes the model file."""

    name: str = ""
    description: str = ""
    stages: tuple[StageName, ...] = ("export", "bundle", "smoke")
    export: Export = Export()
    evaluate: Evaluate = Evaluate()
    quality: Quality = Quality()
    ollama: Ollama = Ollama()

    @field_validator("stages")
    @classmethod
    def _in_order(cls, stages: tuple[StageName, ...]) -> tuple[StageName, ...]:
        order = ("export", "bundle", "smoke")
        if stages != order[: len(stages)] or not stages:
            raise ValueError("stages are a beginning of export, bundle, smoke, in this order")
        return stages


def recipe_names() -> list[str]:
    """Names of the recipes that ship with the tool."""
    return sorted(path.stem for path in _RECIPES.glob("*.yaml"))


def load_recipe(name_or_file: str | None) -> Recipe:
    """A shipped recipe by name, or a file. Relative paths inside a file are relative to it."""
    name = name_or_file or DEFAULT_RECIPE
    path = _find(name)
    data = read_yaml(path)
    recipe = parse(Recipe, {} if data is None else data, f"recipe {path.name}")
    named = recipe.model_copy(update={"name": recipe.name or path.stem})
    return _with_absolute_paths(named, path.parent.absolute())


def _find(name: str) -> Path:
    shipped = _RECIPES / f"{name}.yaml"
    if name in recipe_names():
        return shipped
    path = Path(name).expanduser()
    if path.is_file():
        return path
    if path.suffix in (".yaml", ".yml") or "/" in name:
        raise UserError(f"recipe file '{name}' does not exist", "check the path")
    raise UserError(f"unknown recipe '{name}'", near_names(name, recipe_names()))


def _with_absolute_paths(recipe: Recipe, base: Path) -> Recipe:
    def absolute(path: Path | None, key: str) -> Path | None:
        if path is None:
            return None
        full = base / path.expanduser()
        if not full.is_file():
            raise UserError(f"recipe key '{key}' names {full}, which does not exist")
        return full

    export = {"calibration": absolute(recipe.export.calibration, "export.calibration")}
    evaluate = {
        "text": absolute(recipe.evaluate.text, "evaluate.text"),
        "task": absolute(recipe.evaluate.task, "evaluate.task"),
    }
    return recipe.model_copy(
        update={
            "export": recipe.export.model_copy(update=export),
            "evaluate": recipe.evaluate.model_copy(update=evaluate),
        }
    )
