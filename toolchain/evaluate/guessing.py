"""Whether a perplexity says anything: a model that knows nothing of a kind of text guesses among
its tokens, and what a cut or a smaller type costs cannot be told on such text.
"""

from __future__ import annotations

import math

# Of the nats of a blind guess among all tokens.
_SHARE = 0.75
MEND = (
    "give text of the kind that the model was made for: recipe keys export.calibration and "
    "evaluate.text (or calibration.jsonl and evaluation.jsonl in MODEL/edgeforge), --text of a verb"
)


def is_guessing(perplexity: float | None, vocab_size: int | None) -> bool:
    """Whether a perplexity is near that of a guess, the vocabulary's size."""
    if not perplexity or not vocab_size or vocab_size < 2:
        return False
    return math.log(perplexity) > _SHARE * math.log(vocab_size)


def guessing_note(perplexity: float | None, vocab_size: int | None, name: str) -> str | None:
    """For a reader at a terminal; None where the text `name` suits the model."""
    if not is_guessing(perplexity, vocab_size):
        return None
    return (
        f"perplexity {perplexity:.0f} on {name} is little better than guessing among the model's "
        f"{vocab_size} tokens: figures on this text tell little of it; {MEND}"
    )
