"""Home-control requests in English and Chinese, each with the function calls that serve it.

Example:
    from toolchain.data.home_control import generate, score
    for example in generate("test", 5, seed=7):
        print(example.messages[0]["content"], example.answer)
"""

from .devices import DEFAULT_DEVICES, DEVICES, RESERVED_DEVICES, legal_actions
from .generator import KINDS, LANGUAGES, SPLITS, Example, generate, normalise, render_answer, score

__all__ = [
    "DEFAULT_DEVICES", "DEVICES", "KINDS", "LANGUAGES", "RESERVED_DEVICES", "SPLITS", "Example",
    "generate", "legal_actions", "normalise", "render_answer", "score",
]  # fmt: skip
