"""The report's parts on distillation beside its training: the student made, the teacher's cache."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from toolchain.report.markdown import change, escape, figure, size, table
from toolchain.report.strings import name_of, text


def fresh_students(manifest: Mapping[str, Any], language: str) -> str:
    """Shape and size of every student that was cut out of its teacher; empty when none was."""
    return "\n\n".join(_student(made, language) for made in manifest.get("students") or [])


def teacher_caches(manifest: Mapping[str, Any], language: str) -> str:
    """What of the teacher was written down; empty where it ran beside the student."""
    return "\n\n".join(
        text(
            "teacher_cache_holds",
            language,
            top_k=made["top_k"],
            places=f"{made['places']:,}",
            size=size(made["size_bytes"]),
            each=made["bytes_per_place"],
        )
        for made in manifest.get("teacher_caches") or []
    )


def _student(made: Mapping[str, Any], language: str) -> str:
    before, after = made["teacher_parameters"], made["student_parameters"]
    row = (name_of("parameters", language), figure(before), figure(after), change(before, after))
    shape = text(
        "pruning_shape",
        language,
        before=escape(made["teacher_shape"]),
        after=escape(made["shape"]),
    )
    layers = ", ".join(str(number) for number in made["kept_layers"])
    kept = text("student_kept", language, layers=layers, tokens=f"{made['calibration_tokens']:,}")
    return "\n\n".join([shape, table(text("student_columns", language), [row]), kept])
