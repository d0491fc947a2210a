"""A plan for people (a table) and for machines (JSON)."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from targets.planner import BANDWIDTH_EFFICIENCY_MEASURED
from targets.quantization import MIXED

if TYPE_CHECKING:
    from targets.planner import Candidate, ModelShape, Plan
    from targets.schema import Target
    from toolchain.plan import ModelPlan
    from toolchain.recipe import Recipe

_LISTED_FALLBACKS = 4
# Limits that a recipe or profile may set and need not.
_LIMITS = (
    *("max_total_kld", "min_total_task_share", "max_file_bytes"),
    "min_decode_tokens_per_sec",
)
_HEADER = ("type", "weights", "bits/weight", "memory", "fits", "decode tok/s", "fallbacks")


def planned_stages(recipe: Recipe, backend: str = "gguf") -> list[str]:
    """What a build by this recipe would do, in order."""
    mixed = ["tensor-costs", "mixed-types"] if recipe.export.quantization == MIXED else []
    export = ["convert", *(["imatrix"] if recipe.export.imatrix else []), *mixed, "quantize"]
    if backend != "gguf":
        export = ["export to ONNX", "quantize to INT8"]
    steps = {"export": [*export, "parity", "quality"], "bundle": ["bundle"], "smoke": ["smoke"]}
    prepare = ["prepare"] if recipe.data.files else []
    return [*prepare, *(step for stage in recipe.stages for step in steps.get(stage, [stage]))]


def quality_budget(recipe: Recipe, target: Target, backend: str = "gguf") -> dict[str, float]:
    """The recipe's budget where it sets one, else the target's."""
    max_kld, share = recipe.quality.max_kld, recipe.quality.min_task_share
    own = target.quality.max_kld if backend == "gguf" else target.onnx.max_kld
    budget: dict[str, float] = {
        "max_kld": own if max_kld is None else max_kld,
        "min_task_share": target.quality.min_task_share if share is None else share,
    }
    for name in _LIMITS:
        asked = getattr(recipe.quality, name)
        limit = getattr(target.quality, name, None) if asked is None else asked
        if limit is not None:
            budget[name] = limit
    return budget


def plan_json(found: ModelPlan, target: Target, recipe: Recipe) -> dict[str, Any]:
    """The whole plan as plain values; units are in the names."""
    return {
        **dataclasses.asdict(found.plan),
        "order": list(found.order),
        "shape": dataclasses.asdict(found.shape),
        "stages": planned_stages(recipe, found.backend),
        "quality": quality_budget(recipe, target, found.backend),
    }


def plan_text(found: ModelPlan, target: Target, recipe: Recipe) -> str:
    """The plan as a person reads it."""
    plan = found.plan
    lines = [*_heading(plan, found.shape, target), "", *_table(plan.candidates), ""]
    lines += _choice(found, target, recipe)
    lines += _notes(found, target)
    stages = " → ".join(planned_stages(recipe, found.backend))
    lines.append(f"would do: {stages}. Nothing was written.")
    return "\n".join(lines)


def size_text(size_bytes: float) -> str:
    """Bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.2f} GiB"


def speed_text(tokens_per_sec: float) -> str:
    """Tokens a second for people."""
    return f"{tokens_per_sec:.0f}" if tokens_per_sec >= 10 else f"{tokens_per_sec:.1f}"


def table_text(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Lines of a table with aligned columns."""
    widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (header, *rows)
    ]


def _heading(plan: Plan, shape: ModelShape, target: Target) -> list[str]:
    trained = f", trained for {shape.context_tokens} tokens" if shape.context_tokens else ""
    memory = f"{target.memory.usable_gib:g} GiB usable"
    if target.accelerator.memory_gib is not None:
        memory += f", {target.accelerator.memory_gib:g} GiB on the accelerator"
    buffers = size_text(plan.compute_bytes)
    return [
        f"model    {shape.name} ({shape.architecture}, {shape.parameters / 1e6:.2f} M parameters"
        f"{trained})",
        f"target   {target.name}: {target.title} ({memory}, "
        f"{target.decode_bandwidth_gb_per_sec():g} GB/s)",
        f"context  {plan.context_tokens} tokens: KV cache {plan.kv_cache_type} "
        f"{size_text(plan.kv_cache_bytes)}, compute buffers {buffers}",
    ]


def _table(candidates: Sequence[Candidate]) -> list[str]:
    rows = [
        (
            c.size.quantization,
            size_text(c.size.weights_bytes),
            f"{c.size.bits_per_weight:.2f}",
            size_text(c.total_bytes),
            "yes" if c.fits else "no",
            speed_text(c.decode_tokens_per_sec),
            f"{len(c.size.fallbacks)} of {c.size.tensors}",
        )
        for c in candidates
    ]
    return table_text(_HEADER, rows)


def _choice(found: ModelPlan, target: Target, recipe: Recipe) -> list[str]:
    plan, budget = found.plan, quality_budget(recipe, target, found.backend)
    lines = [
        f"passed over: {c.size.quantization} {c.reason}" for c in plan.candidates if not c.fits
    ]
    if len(plan.candidates) == 1:
        return lines
    if not plan.order:
        return [*lines, "auto finds no type that fits."]
    if found.backend != "gguf":
        return [
            *lines,
            f"auto measures {', '.join(plan.order)} and takes the fastest within the quality "
            "budget; sizes are estimates.",
        ]
    first, *rest = plan.order
    then = f", then {', '.join(rest)}" if rest else ""
    return [
        *lines,
        f"auto tries {first} first{then}, and takes the first with KLD at most "
        f"{budget['max_kld']:g} and at least {budget['min_task_share']:.0%} of the task score.",
    ]


def _notes(found: ModelPlan, target: Target) -> list[str]:
    plan = found.plan
    low, high = BANDWIDTH_EFFICIENCY_MEASURED
    notes = []
    if found.backend == "gguf" and plan.kv_cache_type != target.kv_cache_type:
        notes.append(
            f"note: the KV cache is {plan.kv_cache_type}, not the target's {target.kv_cache_type}, "
            "because the model's heads are no whole blocks of 32."
        )
    for candidate in plan.candidates:
        notes += _fallback_notes(candidate)
    if any(c.size.unnamed_tensors for c in plan.candidates):
        count = plan.candidates[0].size.unnamed_tensors
        notes.append(f"note: {count} tensors have no known GGUF name; their types are guesses.")
    notes.append(
        f"speed is an estimate: {plan.bandwidth_efficiency:.0%} of bandwidth over bytes per token "
        f"(shares measured with llama.cpp: {low:.0%} to {high:.0%}), context half full."
    )
    return notes


def _fallback_notes(candidate: Candidate) -> list[str]:
    fallbacks = candidate.size.fallbacks
    if not fallbacks:
        return []
    listed = [f"{f.tensor} {f.intended} → {f.actual}" for f in fallbacks[:_LISTED_FALLBACKS]]
    more = len(fallbacks) - len(listed)
    return [
        f"warning: {candidate.size.quantization}: {len(fallbacks)} tensors fall back, because "
        f"their rows are no whole blocks: {'; '.join(listed)}{f'; {more} more' if more else ''}"
    ]
