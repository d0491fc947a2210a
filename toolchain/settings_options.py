"""A recipe's section as options of a verb: one list, that of the section's fields.

add_settings(parser, Finetune, "training")
settings = settings_of(args, Finetune)
"""

from __future__ import annotations

import argparse
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

from pydantic.fields import FieldInfo

from common.errors import UserError
from common.shell import typed_path
from common.strict import Strict, parse, read_yaml

_DEST = "setting_"
Section = TypeVar("Section", bound=Strict)


def add_settings(parser: argparse.ArgumentParser, section: type[Strict], title: str) -> None:
    """Add `--settings FILE` and an option for each field."""
    parser.add_argument(
        "--settings",
        type=Path,
        metavar="FILE",
        help=f"YAML with the keys below (a recipe's section {_name(section)}); options go over it",
    )
    group = parser.add_argument_group(title)
    for name, field in section.model_fields.items():
        flag = f"--{name.replace('_', '-')}"
        help_text = f"{field.description}{_default(field)}"
        if field.annotation is bool:
            group.add_argument(
                flag, dest=_DEST + name, action=argparse.BooleanOptionalAction, help=help_text
            )
        else:
            action = "append" if _is_mapping(field) else "store"
            group.add_argument(
                flag, dest=_DEST + name, action=action, metavar=_metavar(field), help=help_text
            )


def settings_of(args: argparse.Namespace, section: type[Section]) -> Section:
    """File and options together. Raises `UserError` that names every fault."""
    given: dict[str, Any] = {}
    if args.settings is not None:
        content = read_yaml(args.settings)
        given = _of_file(section, args.settings, {} if content is None else content)
    for name, field in section.model_fields.items():
        value = getattr(args, _DEST + name)
        if value is not None:
            given[name] = _of_option(name, field, value)
    return parse(section, given, f"settings of {_name(section)}")


def _name(section: type[Strict]) -> str:
    return section.__name__.lower()


def _of_file(section: type[Strict], path: Path, content: Any) -> dict[str, Any]:
    """Checked by itself, so that faults name the file; paths in it are relative to it."""
    parse(section, content, str(path))
    files = [
        name
        for name, field in section.model_fields.items()
        if _names_files(field) and content.get(name)
    ]
    place = path.parent.absolute()

    def absolute(value: Any) -> Any:
        if isinstance(value, list):
            return [absolute(one) for one in value]
        return str(place / typed_path(value))

    return {**content, **{name: absolute(content[name]) for name in files}}


def _of_option(name: str, field: FieldInfo, value: Any) -> Any:
    if _is_mapping(field):
        pairs = [entry.partition("=") for entry in value]
        if any(not (key and equals and text) for key, equals, text in pairs):
            flag = f"--{name.replace('_', '-')}"
            raise UserError(f"{flag} takes NAME=VALUE", f"for example: {flag} q_proj=16")
        return {key: text for key, _, text in pairs}
    if _takes_list(field) and ("," in value or str not in _members(field.annotation)):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


def _names_files(field: FieldInfo) -> bool:
    members = _members(field.annotation)
    return Path in (*members, *(inner for m in members for inner in typing.get_args(m)))


def _is_mapping(field: FieldInfo) -> bool:
    return typing.get_origin(field.annotation) is dict


def _takes_list(field: FieldInfo) -> bool:
    return any(typing.get_origin(member) is tuple for member in _members(field.annotation))


def _members(annotation: Any) -> tuple[Any, ...]:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _metavar(field: FieldInfo) -> str:
    if _is_mapping(field):
        return "NAME=VALUE"
    members = [m for m in _members(field.annotation) if m is not type(None)]
    literals = [str(v) for m in members for v in typing.get_args(m) if isinstance(v, str)]
    if literals and not _takes_list(field):
        more = ["true", "false"] if bool in members else []
        return "{" + ",".join([*literals, *more]) + "}"
    if _names_files(field):
        return "FILES" if _takes_list(field) else "FILE"
    if _takes_list(field):
        return "NAMES"
    return "N" if int in members else "X"


def _default(field: FieldInfo) -> str:
    if field.default is None or "(default" in str(field.description):
        return ""
    default = field.get_default(call_default_factory=True)
    if default in ((), {}):
        return ""
    return f" (default: {str(default).lower() if isinstance(default, bool) else default})"
