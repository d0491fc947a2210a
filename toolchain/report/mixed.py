"""The report's part on types chosen for each tensor: which, and what they cost."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolchain.report.markdown import figure, table
from toolchain.report.strings import text


def mixed(manifest: Mapping[str, Any], language: str) -> str:
    """Types, sizes and KLDs; empty where types were not chosen one by one."""
    facts = manifest.get("mixed")
    if not facts:
        return ""
    gap = text("mixed_exact", language)
    if not facts["exact"]:
        gap = text("mixed_gap", language, gap=figure(100 * facts["gap_share"]))
    row = (
        ", ".join(f"{count} × {kind}" for kind, count in facts["types"].items()),
        figure(manifest["model_file"]["bits_per_weight"]),
        figure(facts["predicted_kld"]),
        figure(facts["measured_kld"]),
        gap,
    )
    lines = [table(text("mixed_columns", language), [row]), "", text("mixed_note", language)]
    reference = facts["reference"]
    if facts["predicted_plain_kld"] is not None:
        kld = figure(facts["predicted_plain_kld"])
        lines.append(text("mixed_plain", language, type=reference, kld=kld))
    if facts["settings"]["keep_speed"]:
        lines.append(text("mixed_speed", language, type=reference))
    return "\n".join(lines)
