"""The report's part on blocks of a model's own: what they gained, and on which text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolchain.report.markdown import MISSING, figure, table
from toolchain.report.strings import text


def exact(manifest: Mapping[str, Any], language: str) -> str:
    """KLD of plain and own blocks on each text; empty when there are none."""
    facts = manifest.get("exact")
    if not facts:
        return ""
    rows = [
        (
            row["name"],
            text(f"exact_{row['kind']}", language),
            row["tokens"],
            figure(row["plain_kld"]),
            figure(row["exact_kld"]),
            MISSING if row["kld_ratio"] is None else figure(row["kld_ratio"]),
            f"{_percent(row['plain_top1_agreement'])} → {_percent(row['exact_top1_agreement'])}",
        )
        for row in facts["texts"]
    ]
    made = text(f"exact_made_{facts['maker']}", language)
    scaled = facts["maker"] == "awq" and facts["kept"] == "exact"
    key = "exact_kept_scaled" if scaled else f"exact_kept_{facts['kept']}"
    kept = text(key, language, type=facts["quantization"], made=made)
    return f"{table(text('exact_columns', language), rows)}\n\n{kept}"


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"
