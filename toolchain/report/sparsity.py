"""The report's part on zeros: how many there are, and that dense files do not gain by them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolchain.report.markdown import MISSING, escape, size, table
from toolchain.report.strings import name_of, text

_SHARES = ("zero_share", "zero_share_of_all", "zero_share_at_the_end")


def sparsity(manifest: Mapping[str, Any], language: str) -> str:
    """A table and what it means; empty when no weights were zeroed."""
    facts = manifest.get("sparsity")
    if not facts:
        return ""
    settings = facts["settings"]
    rows = [
        ("sparsify", escape(settings["method"])),
        (name_of("passes", language), escape(" → ".join(facts["passes"]))),
        *((name_of(name, language), _percent(facts[name])) for name in _SHARES),
    ]
    dense = text(
        "sparsity_dense",
        language,
        bitmap=size(facts["bitmap_bytes"]),
        dense=size(facts["linear_bytes"]),
    )
    return f"{table(text('figures_columns', language), rows)}\n\n{dense}"


def _percent(share: float | None) -> str:
    return MISSING if share is None else f"{100 * share:.2f} %"
