"""The report's part on pruning: what was cut, and what that saves in the type of the file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from toolchain.report.markdown import change, escape, figure, size, table
from toolchain.report.strings import name_of, text


def pruning(manifest: Mapping[str, Any], language: str) -> str:
    """One table for each cut; empty when nothing was cut."""
    return "\n\n".join(_cut(cut, language) for cut in manifest.get("pruning") or [])


def _cut(cut: Mapping[str, Any], language: str) -> str:
    rows = [
        (
            name_of("parameters", language),
            figure(cut["parameters_before"]),
            figure(cut["parameters_after"]),
            change(cut["parameters_before"], cut["parameters_after"]),
        )
    ]
    sizes = cut["sizes"]
    for name in ("file_bytes", "bytes_read_per_token"):
        if name in sizes:
            before, after = sizes[name]
            label = f"{name_of(name, language)} ({sizes['quantization']})"
            rows.append((label, size(before), size(after), change(before, after)))
    rows += _decode_rows(cut.get("decode") or {}, language)
    shape = text(
        "pruning_shape", language, before=escape(cut["shape_before"]), after=escape(cut["shape"])
    )
    parts = [shape, table(text("pruning_columns", language), rows)]
    if sizes:
        before, after = sizes["bytes_read_per_token"]
        parts.append(text("pruning_speed", language, factor=f"{before / after:.2f}"))
    return "\n\n".join([*parts, *_notes(cut["notes"])])


def _decode_rows(decode: Mapping[str, Any], language: str) -> list[tuple[str, str, str, str]]:
    """Decode speed as it is expected on the target, and as it was measured where the cut was
    made."""
    return [
        (
            text(f"pruning_decode_{where}", language, target=decode["target"]),
            figure(speeds[0]),
            figure(speeds[1]),
            change(*speeds),
        )
        for where in ("expected", "measured")
        if (speeds := decode.get(f"{where}_tokens_per_sec"))
    ]


def _notes(notes: Sequence[str]) -> list[str]:
    return [escape(note) for note in notes]
