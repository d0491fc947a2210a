"""Find target files: shipped ones by name or alias, others by path."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from common.errors import UserError, near_names

if TYPE_CHECKING:
    from targets.schema import Target

_FOLDER = Path(__file__).parent
_SUFFIXES = (".yaml", ".yml")


def target_names() -> list[str]:
    """Names of the shipped targets: a file's stem is its target's name."""
    return sorted(path.stem for path in target_files())


def target_files() -> list[Path]:
    """The shipped target files."""
    return sorted(_FOLDER.glob("*.yaml"))


def load_target(name_or_path: str | Path) -> Target:
    """A target by name, alias or file. Raises `UserError` with near names when there is none."""
    text = str(name_or_path)
    if text in target_names():
        return validate_file(_FOLDER / f"{text}.yaml")
    path = Path(text).expanduser()
    if path.suffix in _SUFFIXES or len(path.parts) > 1:
        if not path.is_file():
            raise UserError(f"target file '{path}' does not exist", "check the path")
        return validate_file(path)
    aliases = alias_table()
    if text in aliases:
        return aliases[text]
    raise UserError(
        f"unknown target '{text}'",
        f"{near_names(text, [*target_names(), *aliases])}; a new device is one file, "
        "see targets/README.md",
    )


def alias_table() -> dict[str, Target]:
    """Alias → target over the shipped files. Raises `UserError` when two targets claim one."""
    table: dict[str, Target] = {}
    names = target_names()
    for path in target_files():
        target = validate_file(path)
        for alias in target.aliases:
            owner = table[alias].name if alias in table else alias if alias in names else None
            if owner is not None:
                raise UserError(f"{path} claims the alias '{alias}', which is {owner}'s already")
            table[alias] = target
    return table


def validate_file(path: Path) -> Target:
    """A target file, checked. One `UserError` names all its faults."""
    from common.strict import parse, read_yaml
    from targets.schema import Target

    target = parse(Target, read_yaml(path), f"target file {path}")
    if path.parent == _FOLDER and target.name != path.stem:
        raise UserError(
            f"target file {path} says name '{target.name}'",
            f"name the file {target.name}.yaml, or the target '{path.stem}'",
        )
    return target
