"""The report's part on a cut vocabulary: what went, what that saves, what other text costs now."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolchain.report.markdown import change, escape, figure, size, table
from toolchain.report.strings import name_of, text


def vocabulary(manifest: Mapping[str, Any], language: str) -> str:
    """One table and its sentences for each cut; empty when there was none."""
    return "\n\n".join(_cut(cut, language) for cut in manifest.get("vocabulary") or [])


def _cut(cut: Mapping[str, Any], language: str) -> str:
    shown = (("vocabulary", "vocabulary", figure), ("parameters", "parameters", figure),
             ("weights", "weight_bytes", size))  # fmt: skip
    rows = []
    for name, key, show in shown:
        before, after = cut[key]
        row = (name_of(name, language), show(before), show(after), change(before, after))
        rows.append(row)
    tokens, held = cut["tokens"], cut["held_out"]
    parts = [
        table(text("pruning_columns", language), rows),
        text("vocabulary_equal", language, equal=tokens["documents_equal"],
             changed=tokens["documents_changed"]),
    ]  # fmt: skip
    if held and held["tokens_before"]:
        parts.append(
            text(
                "vocabulary_cost",
                language,
                gone=f"{100 * held['share_gone']:.2f}",
                before=held["tokens_before"],
                after=held["tokens_after"],
                more=f"{100 * (held['tokens_after'] / held['tokens_before'] - 1):+.2f}",
            )
        )
    if held and held["unknown_after"] > held["unknown_before"]:
        parts.append(
            text(
                "vocabulary_unknown",
                language,
                count=held["unknown_after"] - held["unknown_before"],
            )
        )
    return "\n\n".join([*parts, *(escape(note) for note in cut["notes"])])
