"""What every engine offers, so that evaluation knows no engine: one that runs a language model, a
classifier, a tagger or an embedding model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from common.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


Text = str | tuple[str, str]  # a text, or a pair of texts that is read as one


@dataclass(frozen=True)
class Generation:
    """A greedy continuation. `token_ids` is without the stop token; `stopped` says that one came.

    `ttft_sec` is the time from the call to the first token; `decode_sec` the time from then to the
    last. For sequences decoded together both are those of the sequence, not of the whole group.
    """

    token_ids: tuple[int, ...]
    text: str
    stopped: bool
    ttft_sec: float
    decode_sec: float


@runtime_checkable
class Runtime(Protocol):
    """A loaded model. Token ids are the model's own; `close` frees it and may be called twice."""

    @property
    def vocab_size(self) -> int: ...

    @property
    def eog_token_ids(self) -> frozenset[int]: ...

    def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = True
    ) -> list[int]: ...

    def detokenize(self, token_ids: Sequence[int], *, special: bool = False) -> str: ...

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Scores of the next token after each position: `[tokens, vocabulary]`, nothing cached."""
        ...

    def generate(
        self,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        stop_ids: Sequence[int] | None = None,
    ) -> Generation: ...

    def generate_many(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Sequence[int] | None = None,
    ) -> list[Generation]: ...

    def close(self) -> None: ...


@runtime_checkable
class Classifier(Protocol):
    """A loaded model that gives each text one of `labels`. Texts longer than its context are cut.
    `close` frees it and may be called twice."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    def scores(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Logits of the labels: `[texts, labels]`."""
        ...

    def close(self) -> None: ...


@runtime_checkable
class Embedder(Protocol):
    """A loaded model that makes a vector of `width` numbers of each text."""

    @property
    def width(self) -> int: ...

    def embed(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """`[texts, width]`, pooled and normalized as the model was made for."""
        ...

    def close(self) -> None: ...


@dataclass(frozen=True)
class TokenScores:
    """One text's tokens without special ones: where each lies in the text (start and end in
    characters), and logits `[tokens, labels]`."""

    spans: tuple[tuple[int, int], ...]
    logits: NDArray[np.float32]


@runtime_checkable
class TokenTagger(Protocol):
    """A loaded model that gives each token of a text one of `labels`."""

    @property
    def labels(self) -> tuple[str, ...]: ...

    def token_scores(self, texts: Sequence[str]) -> list[TokenScores]: ...

    def close(self) -> None: ...


class HasContext(Protocol):
    """Whatever runs within a context of so many tokens."""

    context_tokens: int


def require_prompt(model: HasContext, prompt_ids: Sequence[int], max_new_tokens: int) -> None:
    """Raise when there is nothing to continue, or no room for the answer."""
    if not prompt_ids or max_new_tokens < 1:
        raise ValueError("a generation needs a prompt and at least one new token")
    require_room(model, len(prompt_ids) + max_new_tokens)


def require_room(model: HasContext, tokens: int) -> None:
    """Raise `UserError` when so many tokens do not fit the model's context."""
    if tokens > model.context_tokens:
        raise UserError(
            f"{tokens} tokens do not fit the context of {model.context_tokens}",
            "shorten the text or open the model with a larger context",
        )
