"""How a model goes on with the first words of held-out documents: sample answers where there is no
task to answer.

    rows = continuations(model, documents)
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from toolchain.models import OpenModel

_SAMPLES = 5
_PROMPT_WORDS = 12
_NEW_TOKENS = 48


def continuations(model: OpenModel, documents: Sequence[str]) -> list[dict[str, Any]]:
    """Rows of prompt, reference (as the document itself goes on, about as long) and the model's
    greedy answer. Documents that are too short, or whose first words do not fit the context, give
    no row."""
    rows: list[tuple[str, str]] = []
    prompts = []
    for document in documents:
        words = document.split()
        prompt = " ".join(words[:_PROMPT_WORDS])
        ids = model.runtime.tokenize(prompt, add_special=True)
        fits = len(ids) + _NEW_TOKENS <= model.context_tokens
        if len(words) >= 2 * _PROMPT_WORDS and fits:
            rows.append((prompt, " ".join(words[_PROMPT_WORDS : 4 * _PROMPT_WORDS])))
            prompts.append(ids)
        if len(rows) == _SAMPLES:
            break
    made = model.runtime.generate_many(prompts, _NEW_TOKENS) if prompts else []
    return [
        {"task": None, "prompt": prompt, "reference": reference, "answer": answer.text.strip()}
        for (prompt, reference), answer in zip(rows, made, strict=True)
    ]
