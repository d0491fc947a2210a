"""What goes wrong with an Ollama, as errors with the mend that Ollama's own words call for.

raise refusal("`ollama create my-model` failed", "no space left on device")
"""

from __future__ import annotations

import re

from common.errors import UserError


class OllamaError(UserError):
    """Ollama is missing, not running, or refuses."""


class OllamaRefusal(OllamaError):
    """A running Ollama says no."""


# What Ollama's own words mean, and what to do.
_MENDS = (
    (
        r"no space left|disk quota|file too large|not enough (?:disk )?space",
        "free space where Ollama keeps its models (OLLAMA_MODELS, or ~/.ollama/models): a model "
        "takes its file's size there",
    ),
    (
        r"unable to load model|unknown model architecture|unsupported (?:model )?architecture",
        "most often this Ollama is too old for the model's architecture: update it, or run the "
        "bundle with llama.cpp (smoke_test.py in the bundle); the server's log says why",
    ),
    (
        r"more system memory|out of memory|cannot allocate|failed to allocate",
        "close other programs, or build the bundle for a smaller context or type",
    ),
    (
        r"invalid model name",
        "take another name with --name: letters, digits, '_', '-', '.', and a tag after ':'",
    ),
    (r"invalid file magic|unsupported content type", "update Ollama: it cannot read this GGUF"),
)


def refusal(what: str, reason: str) -> OllamaRefusal:
    """The error for a refusal, with the mend that Ollama's reason calls for."""
    found = (mend for words, mend in _MENDS if re.search(words, reason, re.IGNORECASE))
    return OllamaRefusal(f"{what}: {reason}", next(found, "the server's log says more"))
