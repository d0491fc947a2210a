"""What engines' token-by-token generators share: how a token is chosen, text as it grows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
_LONGEST_CHARACTER_TOKENS = 8


class Stream(Protocol):
    """A token-by-token generator over a loaded model; ends at a stop token, which is not yielded.

    `temperature` 0 takes the likeliest token; above it tokens are drawn, the same way for the same
    `seed`, from the likeliest ones that together have the probability `top_p`. Raises `UserError`
    when prompt and answer do not fit the context.
    """

    def __call__(
        self,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        stop_ids: Sequence[int] | None = None,
        *,
        temperature: float = 0.0,
        seed: int | None = None,
        top_p: float = 1.0,
    ) -> Iterator[int]: ...


class TokenChooser:
    """Chooses the next token from logits `[vocabulary]`."""

    def __init__(self, temperature: float, seed: int | None, top_p: float = 1.0) -> None:
        import numpy as np

        self._temperature = temperature
        self._top_p = top_p
        self._random = np.random.default_rng(seed)

    def __call__(self, logits: NDArray[np.float32]) -> int:
        import numpy as np

        if self._temperature <= 0:
            return int(logits.argmax())
        scaled = logits.astype(np.float64) / self._temperature
        weights = np.exp(scaled - scaled.max())
        weights /= weights.sum()
        if self._top_p < 1:
            order = np.argsort(-weights, kind="stable")
            # A token stays while those before it have less than top_p: the first one always does.
            before = np.cumsum(weights[order]) - weights[order]
            weights[order[before >= self._top_p]] = 0
            weights /= weights.sum()
        return int(self._random.choice(len(weights), p=weights))


def text_pieces(
    token_ids: Iterable[int], detokenize: Callable[[Sequence[int]], str]
) -> Iterator[str]:
    """The text of tokens as they come; a character whose bytes are not all there yet waits.

    A few tokens before the new ones are decoded with them, since decoders treat the start of a
    text in their own way (the method of text-generation-inference).
    """
    ids: list[int] = []
    start = done = 0
    for token in token_ids:
        ids.append(token)
        before, text = detokenize(ids[start:done]), detokenize(ids[start:])
        unfinished = text.endswith(_REPLACEMENT) and len(ids) - done < _LONGEST_CHARACTER_TOKENS
        if len(text) > len(before) and not unfinished:
            yield text[len(before) :]
            start, done = done, len(ids)
    if done < len(ids):
        rest = detokenize(ids[start:])[len(detokenize(ids[start:done])) :]
        if rest:
            yield rest
