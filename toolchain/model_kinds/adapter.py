"""Kind `adapter`: a peft adapter folder, put onto the base checkpoint that it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_json
from toolchain.checkpoint.locate import locate
from toolchain.model_kinds.checkpoint import open_checkpoint
from toolchain.models import OpenModel, OpenOptions

CONFIG = "adapter_config.json"


def matches(path: Path) -> bool:
    """An adapter's config and no model's."""
    return (path / CONFIG).is_file() and not (path / "config.json").is_file()


def open_path(path: Path, options: OpenOptions) -> OpenModel:
    """Load the base and put the adapter on.

    Raises `UserError` when the adapter names no base, the base is missing, or they do not fit.
    """
    config = read_json(path / CONFIG)
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    if options.base is not None:
        base = str(options.base)
    if not isinstance(base, str) or not base:
        raise UserError(
            f"adapter {path} does not name its base model",
            f"set base_model_name_or_path in {CONFIG} to the base's folder or hub id",
        )
    folder = locate(base, trust_remote_code=options.trust_remote_code)
    opened = open_checkpoint(
        folder,
        options,
        name=path.name,
        kind="adapter",
        change=lambda network: _put_on(network, path),
    )
    opened.facts = {**opened.facts, "base": base}
    return opened


def _put_on(network: Any, adapter: Path) -> Any:
    try:
        from peft import PeftModel
    except ImportError:
        raise UserError("adapters need peft, which is not installed", "make setup") from None
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
