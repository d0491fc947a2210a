"""Run an exporter in a process of its own: its memory goes with it, and it cannot reach a hub."""

from __future__ import annotations

from collections.abc import Sequence

from toolchain.child import Outcome, environment, module_command, run_to_end

_LAST_LINES = 3


def run_exporter(module: str, arguments: Sequence[str]) -> Outcome:
    """Run `python -m module arguments` to its end. Raises `Lack` when the machine ran out of
    something."""
    own = environment(TQDM_DISABLE="1", HF_HUB_DISABLE_PROGRESS_BARS="1")
    outcome = run_to_end(module_command(module, *arguments), own)
    if lack := outcome.lack("exporting to ONNX"):
        raise lack
    return outcome


def last_words(outcome: Outcome) -> str:
    """The end of what an exporter said: an exception's text, as a rule."""
    lines = [line.strip() for line in outcome.said.splitlines() if line.strip()]
    return " | ".join(lines[-_LAST_LINES:])[-400:] or "it left no message"
