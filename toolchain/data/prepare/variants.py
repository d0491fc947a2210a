"""Texts made of a text's own words, which a teacher can judge though nobody has labelled them.

    list(variants("a film that is both moving and wise", 4, seed=0))

Half are pieces of the text, half are the text with some words left out: what Tang et al. 2019
(arXiv:1903.12136) make of few sentences to distil a BERT, without their guesses of other words.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator

MOST_VARIANTS = 100  # of one text
_LEFT_OUT = 0.1  # share of the words
# A Han or kana sign is a word; elsewhere white space parts words, and stays with what follows.
_SIGN = "\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"\s*(?:[{_SIGN}]|[^\s{_SIGN}]+)")


def variants(text: str, count: int, seed: int) -> Iterator[str]:
    """At most `count` texts, the same for the same text and seed; fewer where it has few words.
    Some may come twice."""
    words = _WORD.findall(text)
    if len(words) < 2:
        return
    chance = random.Random(f"{seed} {text}")
    for number in range(count):
        kept = words
        if number % 2 == 0:
            length = chance.randint(1, len(words) - 1)
            start = chance.randint(0, len(words) - length)
            kept = words[start : start + length]
        thinned = [word for word in kept if chance.random() >= _LEFT_OUT]
        made = "".join(thinned).strip()
        if made and made != text.strip():
            yield made
