"""What `edgeforge check` found, for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from toolchain.plan_report import size_text, speed_text, table_text

if TYPE_CHECKING:
    from toolchain.check.check import Checked
    from toolchain.check.parts import Finding
    from toolchain.check.sizes import Sizes

_VERDICTS = {"works": "works", "limit": "works, limited", "refused": "refused"}
_LISTED_FALLBACKS = 3


def check_text(checked: Checked) -> str:
    """Facts, parts, sizes, and what to do."""
    lines = list(_facts(checked))
    if checked.faults:
        lines += ["", "the checkpoint is refused:", *(f"  - {f}" for f in checked.faults)]
        return "\n".join(lines)
    lines += ["", *_parts(checked.findings)]
    for title, sizes in (("GGUF", checked.gguf), ("ONNX, estimated", checked.onnx)):
        if sizes is not None:
            lines += ["", *_sizes(title, sizes)]
    todo = list(_todo(checked))
    if todo:
        lines += ["", "what to do:", *(f"  - {line}" for line in todo)]
    return "\n".join(lines)


def _facts(checked: Checked) -> Iterator[str]:
    info = checked.info
    dtypes = ", ".join(sorted({tensor.dtype for tensor in info.tensors})) or "unknown type"
    tied = "tied" if info.tied_embeddings else "untied"
    yield (
        f"model      {info.name} ({info.architecture}), {info.parameters / 1e6:.2f} M parameters, "
        f"{size_text(info.weight_bytes)} of {dtypes}"
    )
    yield (
        f"tokenizer  {info.tokenizer_kind or 'none'}, vocabulary {info.vocab_size}, {tied} "
        f"embeddings, context {info.context_tokens or 'not said'}, "
        f"{'a' if info.chat_template else 'no'} chat template"
    )
    if checked.target is not None:
        yield f"target     {checked.target.name}: {checked.target.title}"


def _parts(findings: tuple[Finding, ...]) -> list[str]:
    rows = []
    for found in findings:
        first, *more = found.details or ("",)
        rows.append((found.part, _VERDICTS[found.verdict], first))
        rows += [("", "", detail) for detail in more]
    return table_text(("part", "verdict", "why"), rows)


def _sizes(title: str, sizes: Sizes) -> list[str]:
    context = f" at {sizes.context_tokens} tokens" if sizes.context_tokens else ""
    rows = [
        (
            row.size.quantization,
            size_text(row.size.weights_bytes),
            f"{row.size.bits_per_weight:.2f}",
            size_text(row.total_bytes) if sizes.context_tokens else "-",
            "-" if row.fits is None else "yes" if row.fits else "no",
            "-" if row.decode_tokens_per_sec is None else speed_text(row.decode_tokens_per_sec),
            f"{len(row.size.fallbacks)} of {row.size.tensors}",
        )
        for row in sizes.rows
    ]
    header = ("weights", "bits/weight", f"memory{context}", "fits", "decode tok/s", "fallbacks")
    return table_text((title, *header), rows)


def _todo(checked: Checked) -> Iterator[str]:
    for found in checked.findings:
        if found.verdict == "refused" and found.mend:
            yield f"{found.part}: {found.mend}"
    if checked.gguf is None:
        return
    fallen = [row for row in checked.gguf.rows if row.size.fallbacks]
    if fallen:
        worst = max(fallen, key=lambda row: len(row.size.fallbacks))
        names = [
            f"{f.tensor} {f.intended} → {f.actual}"
            for f in worst.size.fallbacks[:_LISTED_FALLBACKS]
        ]
        whole = [r.size.quantization for r in checked.gguf.rows if not r.size.fallbacks]
        take = f"; types without fallbacks: {', '.join(whole)}" if whole else ""
        yield (
            f"rows that are no whole blocks get larger types ({worst.size.quantization}: "
            f"{'; '.join(names)}{', …' if len(worst.size.fallbacks) > len(names) else ''}){take}"
        )
    rows = [row for row in checked.gguf.rows if row.fits is not None]
    if rows and not any(row.fits for row in rows):
        yield "no type fits: edgeforge advise says which recipe makes it smaller"
    if checked.info.companion is None and checked.info.chat_template is not None:
        yield "give a task with answers (recipe: evaluate.task), so that the task score is measured"
