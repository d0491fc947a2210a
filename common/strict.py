"""Strict settings files: YAML or mappings into typed models, with every fault named at once."""

from __future__ import annotations

import difflib
import types
import typing
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from common.errors import UserError
from common.resources import explained
from common.yaml_text import parse_yaml

_MAX_FILE_BYTES = 1 << 20


class Strict(BaseModel):
    """Base of every settings type: frozen, unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Model = TypeVar("Model", bound=BaseModel)


def read_yaml(path: Path) -> Any:
    """A YAML file's value, safe-loaded; a `UserError` names file and line when it is broken."""
    try:
        if path.stat().st_size > _MAX_FILE_BYTES:
            raise UserError(
                f"{path} is too large for a settings file (limit: 1 MiB)", "is it the right file?"
            )
        return parse_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise explained(error) or UserError(
            f"{path} cannot be read: {error}", "check the path"
        ) from None
    except yaml.YAMLError as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path} is not valid YAML: {reason}", "mend what is named") from None


def parse(model: type[Model], data: Any, origin: str) -> Model:
    """`data` as `model`. One `UserError` names all faults; an unknown key gets the nearest name."""
    if not isinstance(data, dict):
        raise UserError(
            f"{origin} must hold a mapping of keys, not {type(data).__name__}",
            "write lines such as `name: value`",
        )
    try:
        return model.model_validate(data)
    except ValidationError as error:
        details = [_fault(model, dict(fault)) for fault in error.errors()]
    noun = "fault" if len(details) == 1 else "faults"
    raise UserError(
        f"{origin} has {len(details)} {noun}", "mend the keys named above", details=details
    )


def _fault(model: type[BaseModel], fault: dict[str, Any]) -> str:
    place = ".".join(str(part) for part in fault["loc"]) or "(top)"
    if fault["type"] == "extra_forbidden":
        known = _known_keys(model, fault["loc"][:-1])
        near = difflib.get_close_matches(str(fault["loc"][-1]), known, n=1, cutoff=0.5)
        advice = f"did you mean '{near[0]}'?" if near else f"known here: {', '.join(known)}"
        return f"unknown key '{place}': {advice}"
    if fault["type"] == "missing":
        return f"'{place}' is missing"
    return f"'{place}': {fault['msg']} (found {fault.get('input')!r:.80})"


def _known_keys(model: type[BaseModel], path: tuple[Any, ...]) -> list[str]:
    current: Any = model
    for part in path:
        if isinstance(part, int):  # an item of a list: its type was taken with the list's field
            continue
        if not (isinstance(current, type) and issubclass(current, BaseModel)):
            return []
        field = current.model_fields.get(str(part))
        if field is None:
            return []
        current = _settings_type(field.annotation)
    is_model = isinstance(current, type) and issubclass(current, BaseModel)
    return sorted(current.model_fields) if is_model else []


def _settings_type(annotation: Any) -> Any:
    """The model inside `X | None`, `tuple[X, ...]`, `list[X]`."""
    if typing.get_origin(annotation) in (tuple, list):
        return _settings_type(typing.get_args(annotation)[0])
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        members = [m for m in typing.get_args(annotation) if m is not type(None)]
        return members[0] if members else annotation
    return annotation
