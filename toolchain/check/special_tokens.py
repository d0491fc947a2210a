"""The text of a checkpoint's special tokens, from its small files."""

from __future__ import annotations

from common.files import read_object
from toolchain.checkpoint.info import CheckpointInfo

_MAP = "special_tokens_map.json"


def special_token(info: CheckpointInfo, name: str) -> str | None:
    """The token's text (`bos_token`, `eos_token`), as tokenizer_config.json or, before it, the map
    of special tokens says; None where neither does."""
    said = info.tokenizer_config.get(name)
    if said is None and (info.path / _MAP).is_file():
        said = read_object(info.path / _MAP).get(name)
    if isinstance(said, dict):
        said = said.get("content")
    return said if isinstance(said, str) else None
