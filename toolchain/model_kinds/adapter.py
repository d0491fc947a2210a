"""Kind `adapter`: a peft adapter folder, put onto the base checkpoint that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_json
from toolchain.checkpoint.locate import DEMO, DEMO_NAME, locate
from toolchain.compress.adapter import require_harmless
from toolchain.compress.base_record import noted_place
from toolchain.model_kinds.checkpoint import open_checkpoint
from toolchain.models import OpenModel, OpenOptions

CONFIG = "adapter_config.json"
_SAY_WHERE = "say where it lies: --base FOLDER_OR_HUB_ID"


def matches(path: Path) -> bool:
    """An adapter's config and no model's."""
    return (path / CONFIG).is_file() and not (path / "config.json").is_file()


def open_path(path: Path, options: OpenOptions) -> OpenModel:
    """Load the base and put the adapter on.

    Raises `UserError` when the adapter names no base, the base is missing, or they do not fit.
    """
    from toolchain.encoder_kinds.adapter import task_of

    if task := task_of(path):
        raise UserError(
            f"adapter {path} is for {task}, not a language model",
            "edgeforge classify MODEL 'your text'",
        )
    folder = base_folder(path, options)
    opened = open_checkpoint(
        folder,
        options,
        name=path.name,
        kind="adapter",
        change=lambda network: put_on(network, path),
    )
    opened.facts = {**opened.facts, "base": named_base(path, options)}
    return opened


def base_folder(adapter: Path, options: OpenOptions) -> Path:
    """Where the adapter's base lies: at `options.base`, else where training noted it, else at the
    place or under the hub id that the adapter names. Raises `UserError` when it is not there."""
    place_given = options.base or noted_place(adapter)
    if place_given is not None:
        return locate(str(place_given), trust_remote_code=options.trust_remote_code)
    named = named_base(adapter, options)
    place = DEMO if named == DEMO_NAME and not Path(named).exists() else named
    try:
        return locate(place, trust_remote_code=options.trust_remote_code)
    except UserError as error:
        raise UserError(
            f"the base '{named}' of adapter {adapter} is not found: {error.problem}", _SAY_WHERE
        ) from None


def named_base(adapter: Path, options: OpenOptions) -> str:
    """The base as it was given, else as the adapter names it."""
    if options.base is not None:
        return str(options.base)
    config = read_json(adapter / CONFIG)
    named = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if not isinstance(named, str) or not named:
        raise UserError(f"adapter {adapter} does not name its base model", _SAY_WHERE)
    return named


def put_on(network: Any, adapter: Path) -> Any:
    """The network with the adapter's layers inside. Raises `UserError` when they do not fit."""
    try:
        from peft import PeftModel
    except ImportError:
        raise UserError("adapters need peft, which is not installed", "make setup") from None
    require_harmless(adapter)
    try:
        adapted = PeftModel.from_pretrained(network, adapter).eval()
    except (OSError, ValueError, KeyError, RuntimeError, TypeError) as error:
        raise UserError(
            f"adapter {adapter} does not fit its base model: {str(error)[:300]}",
            "give the base that the adapter was trained on",
        ) from None
    if adapted.active_peft_config.is_prompt_learning:
        raise UserError(f"adapter {adapter} is of a kind that learns prompts, which cannot be run")
    return adapted.get_base_model()  # the adapter's layers are inside
