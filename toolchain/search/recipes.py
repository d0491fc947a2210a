"""A point as a recipe: what a trial is made by, and what rebuilds it (`build --recipe`)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.files import write_text
from common.folders import make_folder
from toolchain.search.space import Point
from toolchain.search.texts import FIT

if TYPE_CHECKING:
    from toolchain.recipe import Recipe

NAME = "searched"  # of every recipe: a pruned candidate is a model of this name
_BUNDLE = ["export", "bundle", "smoke"]
# What a recipe to start from may set; everything else is the search's, or changes the model.
_KEPT = ("export", "evaluate", "quality", "run", "ollama", "prune")
_SEARCHED = (("export", "quantization"), ("export", "tensor_types"), ("export", "calibration"))


def base_settings(recipe: Recipe) -> dict[str, Any]:
    """The settings that every candidate shares. Raises `UserError` for a recipe whose own stages
    change the model, and for what a search decides."""
    if recipe.chain:
        raise UserError(
            f"recipe '{recipe.name}' has stages before the export ({', '.join(recipe.chain)}); a "
            "search varies the export of a finished checkpoint",
            "build that recipe first and search over its result: --model FOLDER",
        )
    if recipe.export.format == "onnx":
        raise UserError("a search makes GGUF files, not ONNX", "take export.format out")
    given = recipe.model_dump(mode="json", exclude_defaults=True)
    if given.get("export", {}).get("tensor_types"):
        raise UserError(
            f"recipe '{recipe.name}' sets export.tensor_types, which the search chooses",
            "take it out, or fix a group: --tensor-types ffn_down=Q6_K",
        )
    found = {name: dict(given[name]) for name in _KEPT if name in given}
    for section, key in _SEARCHED:
        found.get(section, {}).pop(key, None)
    return found


def recipe_data(
    point: Point, base: Mapping[str, Mapping[str, Any]], calibration: str, snap_type: str
) -> dict[str, Any]:
    """The recipe's keys. `snap_type` is the type whose blocks pruned widths fit, the same for all
    types, so that a ratio is pruned once."""
    export = {
        **base.get("export", {}),
        "format": "gguf",
        "quantization": point.quantization,
        "calibration": calibration,
    }
    if point.tensor_types:
        export["tensor_types"] = point.patterns()
    run = {
        "context_tokens": point.context_tokens,
        "kv_cache_type": point.kv_cache_type,
        "threads": point.threads,
    }
    data: dict[str, Any] = {
        **{name: dict(section) for name, section in base.items() if name != "prune"},
        "name": NAME,
        "description": f"found by edgeforge search: {point.text()}",
        "stages": [*(["prune"] if point.prune_ratio else []), *_BUNDLE],
        "export": export,
        "run": {**base.get("run", {}), **{k: v for k, v in run.items() if v is not None}},
    }
    if point.prune_ratio:
        pruned = {**base.get("prune", {}), "ratio": point.prune_ratio, "quantization": snap_type}
        data["prune"] = pruned
    return data


def parsed(data: Mapping[str, Any]) -> Recipe:
    """The keys as a recipe; paths in them are absolute."""
    from common.strict import parse
    from toolchain.recipe import Recipe

    return parse(Recipe, dict(data), f"the search's recipe for {data['export']['quantization']}")


def write_recipe(
    path: Path,
    point: Point,
    base: Mapping[str, Mapping[str, Any]],
    snap_type: str,
    notes: tuple[str, ...] = (),
) -> Path:
    """Write the recipe beside (or below) the search's calibration text, which it names relative to
    itself."""
    import yaml

    folder = path.parent if (path.parent / FIT).is_file() else path.parent.parent
    calibration = os.path.relpath(folder / FIT, path.parent)
    data = recipe_data(point, _relative(base, path.parent), calibration, snap_type)
    head = "".join(f"# {line}\n" for line in ("Written by edgeforge search.", *notes))
    make_folder(path.parent)
    write_text(path, head + yaml.safe_dump(data, sort_keys=False, allow_unicode=True))
    return path


def _relative(base: Mapping[str, Mapping[str, Any]], place: Path) -> dict[str, dict[str, Any]]:
    """Texts of the user's recipe, which are absolute by now, as seen from the new one."""
    evaluate = {
        key: os.path.relpath(value, place) if key in ("text", "task") else value
        for key, value in base.get("evaluate", {}).items()
    }
    own = {name: dict(section) for name, section in base.items()}
    return {**own, **({"evaluate": evaluate} if evaluate else {})}
