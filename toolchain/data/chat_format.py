"""A checkpoint's chat template with the tokens it uses, read without loading the tokenizer."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.files import read_object
from toolchain.checkpoint.documents import chat_template


@dataclass(frozen=True)
class ChatFormat:
    """A Jinja template and the texts of the special tokens that it may use."""

    template: str
    bos_token: str | None
    eos_token: str | None


def chat_format(checkpoint: Path) -> ChatFormat | None:
    """The checkpoint's chat format; `None` when it has no template."""
    path = checkpoint / "tokenizer_config.json"
    config = read_object(path) if path.is_file() else {}
    template = chat_template(checkpoint, config)
    if not template:
        return None
    return ChatFormat(template, _token(config, "bos_token"), _token(config, "eos_token"))


def _token(config: Mapping[str, Any], name: str) -> str | None:
    value = config.get(name)
    text = value.get("content") if isinstance(value, dict) else value
    return text if isinstance(text, str) else None
