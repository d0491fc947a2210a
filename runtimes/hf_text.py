"""Text to token ids and back with a tokenizer of transformers, as `runtimes.protocol` wants it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any


class HuggingFaceText:
    """What runtimes over Hugging Face tokenizers share."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer

    @property
    def bos_token_id(self) -> int | None:
        token: int | None = self._tokenizer.bos_token_id
        return token

    @property
    def chat_template(self) -> str | None:
        """The tokenizer's Jinja template; the one named `default` where it has several."""
        template = self._tokenizer.chat_template
        return template.get("default") if isinstance(template, dict) else template

    def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = True
    ) -> list[int]:
        """Token ids, as the checkpoint's tokenizer gives them."""
        ids: list[int] = self._tokenizer(
            text,
            add_special_tokens=add_special,
            split_special_tokens=not parse_special,
            verbose=False,
        )["input_ids"]
        return ids

    def detokenize(self, token_ids: Sequence[int], *, special: bool = False) -> str:
        """The tokens' text; special tokens appear only with `special`."""
        text: str = self._tokenizer.decode(
            list(token_ids), skip_special_tokens=not special, clean_up_tokenization_spaces=False
        )
        return text
