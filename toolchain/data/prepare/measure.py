"""Lengths in tokens, as training will see them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import UserError
from common.files import read_object
from runtimes.encoder_batches import unused_positions
from toolchain.data.prepare.encode import TooLong, encode_chat, encode_text
from toolchain.data.prepare.formats import Example

_NO_LIMIT = 1 << 40


@dataclass(frozen=True)
class Length:
    """A whole row's tokens, and whether training will cut it."""

    tokens: int
    truncated: bool


@dataclass(frozen=True)
class Measure:
    """A tokenizer and the context that rows must fit into."""

    tokenizer: Any
    model: str
    max_tokens: int

    def encode(self, example: Example) -> tuple[bool, str, Length | None]:
        """(too long to train on, what is wrong, length)."""
        if example.messages is None:
            text, pair = example.text or "", example.text_pair
            count = len(encode_text(self.tokenizer, text, _NO_LIMIT, pair).input_ids)
            return False, "", Length(count, count > self.max_tokens)
        try:
            whole = encode_chat(self.tokenizer, example.messages, _NO_LIMIT)
            longest = max(whole.answer_tokens)
            if longest > self.max_tokens:
                raise TooLong(f"the answer has {longest} tokens")
            first = next(i for i, label in enumerate(whole.labels) if label >= 0)
            if first >= self.max_tokens:
                raise TooLong(f"the prompt has {first} tokens, which leaves no room for an answer")
        except TooLong as error:
            return True, f"{error.problem}; the context holds {self.max_tokens}", None
        except UserError as error:
            return False, error.problem, None
        count = len(whole.input_ids)
        return False, "", Length(count, count > self.max_tokens)

    def require_chat_template(self) -> None:
        """Raise a `UserError` when conversations cannot be rendered."""
        if not self.tokenizer.chat_template:
            raise UserError(
                f"the tokenizer of {self.model} has no chat template, so lengths are unknown",
                "give --model of a chat model, or leave --model out",
            )

    def facts(self) -> dict[str, Any]:
        """For the report."""
        return {"model": self.model, "max_tokens": self.max_tokens}


def load_measure(
    checkpoint: Path | None, max_tokens: int | None, trust_remote_code: bool = False
) -> Measure | None:
    """The measure of a checkpoint; without `max_tokens` its own context. `None` without one.

    Raises `UserError` when `max_tokens` is not a part of the context, or has no checkpoint.
    """
    if max_tokens is not None and max_tokens < 1:
        raise UserError(f"--max-tokens {max_tokens} is too small", "give a positive number")
    if checkpoint is None:
        if max_tokens is not None:
            raise UserError(
                "--max-tokens needs a tokenizer", "name its model: --model PATH_OR_HUB_ID"
            )
        return None
    from toolchain.hf import load_tokenizer

    context = _context_tokens(checkpoint)
    if max_tokens is not None and context is not None and max_tokens > context:
        raise UserError(
            f"--max-tokens {max_tokens} exceeds the context of {checkpoint.name}: {context} tokens",
            f"give at most {context}",
        )
    limit = max_tokens or context
    if limit is None:
        raise UserError(
            f"config.json of {checkpoint.name} does not say how long its context is",
            "give --max-tokens N",
        )
    tokenizer = load_tokenizer(checkpoint, trust_remote_code=trust_remote_code)
    return Measure(tokenizer, checkpoint.name, limit)


def _context_tokens(checkpoint: Path) -> int | None:
    path = checkpoint / "config.json"
    config = read_object(path) if path.is_file() else {}
    nested = config.get("text_config")
    for settings in (config, nested if isinstance(nested, dict) else {}):
        for name in ("max_position_embeddings", "n_positions", "n_ctx"):
            if isinstance(settings.get(name), int):
                return int(settings[name]) - unused_positions(config)
    return None
