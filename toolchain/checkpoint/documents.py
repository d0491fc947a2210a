"""The small files beside the weights: JSON objects, chat template, licence, companion data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_object
from common.resources import explained
from common.yaml_text import parse_yaml

COMPANION = "edgeforge"
_LICENSE_NAMES = ("license", "licence", "copying")
_FRONT_MATTER_MARK = "---"
_FETCH_TEMPLATE = "fetch it again, or give a chat_template.jinja in UTF-8"


def chat_template(folder: Path, tokenizer_config: Mapping[str, Any]) -> str | None:
    """The default chat template: `chat_template.jinja` before the one in tokenizer_config.json.

    Raises `UserError` when the template cannot be read as text.
    """
    file = folder / "chat_template.jinja"
    if file.is_file():
        try:
            return file.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise explained(error) or UserError(
                f"{file.name} cannot be read as text: {error}", _FETCH_TEMPLATE
            ) from None
    inline = tokenizer_config.get("chat_template")
    if inline is None and (folder / "chat_template.json").is_file():
        inline = read_object(folder / "chat_template.json").get("chat_template")
    if isinstance(inline, list):
        named = [entry for entry in inline if _is_dict(entry) and entry.get("name") == "default"]
        inline = named[-1].get("template") if named else None
    if not isinstance(inline, str):
        return None
    try:
        inline.encode("utf-8")
    except UnicodeEncodeError as error:  # half a surrogate, which JSON can hold and no file can
        raise UserError(
            f"the chat template in {folder} cannot be read as text: {error}", _FETCH_TEMPLATE
        ) from None
    return inline


def license_of(folder: Path) -> tuple[str | None, Path | None]:
    """The licence's id from the README's front matter, else from config.json, and the licence's
    text file."""
    file = next(
        (
            path
            for path in sorted(folder.iterdir())
            if path.is_file() and path.name.lower().startswith(_LICENSE_NAMES)
        ),
        None,
    )
    return _front_matter_license(folder / "README.md") or _config_license(folder), file


def companion_folder(folder: Path) -> Path | None:
    """The folder with task, calibration and evaluation data that belongs to the checkpoint."""
    companion = folder / COMPANION
    return companion if companion.is_dir() else None


def _front_matter_license(readme: Path) -> str | None:
    import yaml

    try:
        lines = readme.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError):
        return None
    if not lines or lines[0].strip() != _FRONT_MATTER_MARK:
        return None
    end = next((i for i, line in enumerate(lines[1:], 1) if line.strip() == _FRONT_MATTER_MARK), 0)
    try:
        matter = parse_yaml("\n".join(lines[1:end]))
    except yaml.YAMLError:
        return None
    value = matter.get("license") if isinstance(matter, dict) else None
    if isinstance(value, list) and value:
        value = value[0]
    if value == "other" and isinstance(matter.get("license_name"), str):
        value = matter["license_name"]
    return value if isinstance(value, str) else None


def _config_license(folder: Path) -> str | None:
    try:
        value = read_object(folder / "config.json").get("license")
    except UserError:
        return None
    return value if isinstance(value, str) and value else None


def _is_dict(value: Any) -> bool:
    return isinstance(value, dict)
