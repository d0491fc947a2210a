"""How a folder of sentence-transformers makes one vector of a text: modules.json and its folders.

A folder without them gets the mean of its tokens, padding left out.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from common.errors import UserError
from common.files import read_json, read_object
from runtimes.pooling import POOLING_MODES, Pooling, PoolingMode

MODULES = "modules.json"
LIMITS = "sentence_bert_config.json"
_FLAGS = {
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_cls_token": "cls",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_lasttoken": "lasttoken",
}


def pooling_of(folder: Path) -> Pooling:
    """The folder's pooling. Raises `UserError` for one that is not known here."""
    if not (folder / MODULES).is_file():
        return Pooling()
    listed = read_json(folder / MODULES)
    if not isinstance(listed, list) or not all(isinstance(entry, dict) for entry in listed):
        raise UserError(f"{folder / MODULES} is no list of modules", "fetch it again")
    mode, normalize = "mean", False
    for entry in listed:
        kind = str(entry.get("type", "")).rsplit(".", 1)[-1]
        if kind == "Pooling":
            mode = _mode(folder / str(entry.get("path", "")) / "config.json")
        elif kind == "Normalize":
            normalize = True
        elif kind != "Transformer":
            raise UserError(
                f"{folder / MODULES} has the module {kind}, which is not known here",
                "known: Transformer, Pooling, Normalize",
            )
    return Pooling(cast(PoolingMode, mode), normalize)


def text_limit(folder: Path) -> int | None:
    """How many tokens of a text sentence-transformers reads; `None` where it does not say."""
    path = folder / LIMITS
    said = read_object(path).get("max_seq_length") if path.is_file() else None
    return said if isinstance(said, int) and said > 0 else None


def _mode(path: Path) -> str:
    config: Mapping[str, Any] = read_object(path)
    named = config.get("pooling_mode")
    modes = [named] if isinstance(named, str) else list(named or [])
    modes = modes or [mode for flag, mode in _FLAGS.items() if config.get(flag)]
    others = [f for f in config if f.startswith("pooling_mode_") and config[f] and f not in _FLAGS]
    if len(modes) != 1 or others or modes[0] not in POOLING_MODES:
        found = ", ".join([*modes, *others]) or "none"
        raise UserError(
            f"{path} asks for the pooling {found}, which is not known here",
            f"known: one of {', '.join(POOLING_MODES)}",
        )
    return str(modes[0])
