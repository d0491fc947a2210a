"""The bundle's `manifest.json`: the whole chain from base checkpoint to model file, as data.

The reports are written from it and from nothing else.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.documents import license_of
from toolchain.checkpoint.inspect import inspect
from toolchain.compress.sparse.record import read_names, zeros_of
from toolchain.evaluate.measure import ANSWERS
from toolchain.evaluate.measure import FORMAT as EVALUATION_FORMAT
from toolchain.export.payload import model_bytes, payload_of
from toolchain.export.provenance import (
    ENGINES,
    chain_entry,
    licences,
    reproducible,
    tool_versions,
)
from toolchain.recipe import TRAINING
from toolchain.report.markdown import figure
from toolchain.stage import Input
from toolchain.train.result import CURVE

if TYPE_CHECKING:
    from toolchain.export.bundle import Config

SCHEMA = 1
_SAMPLES = 6


def make_manifest(
    source: Artifact,
    model_file: str,
    config: Config,
    ollama: Mapping[str, Any],
    digests: Mapping[str, str],
) -> dict[str, Any]:
    """The manifest of the exported `source`; `model_file` is its place in the bundle, `ollama` what
    the Modelfile says, `digests` are those of the bundle's other files."""
    parity, quality = _loaded(config.parity), _loaded(config.quality)
    reference = _loaded(config.reference_quality)
    steps = [artifacts.load(step.path) for step in config.steps]
    makers = [artifacts.load(maker.path) for maker in config.makers]
    chain = [chain_entry(stage) for stage in (*steps, *makers, source)]
    evidence = [chain_entry(stage, with_digests=False) for stage in (parity, quality) if stage]
    payload = payload_of(source)
    runtime = payload.RUNTIME
    license_id, license_file = bundle_license(config)
    return {
        "schema": SCHEMA,
        "model": config.model,
        "quantization": source.measurements.get("quantization")
        or source.measurements.get("variant"),
        "target": config.target,
        "runtime": runtime,
        "kind": payload.KIND,
        "model_file": _model_file(source, model_file, config, digests),
        **_adapter(config, digests),
        "base": {"digest": config.base.digest, "files": config.base_files},
        "data": _data(config, steps, makers),
        "pruning": _pruning(steps),
        "vocabulary": _vocabulary(steps),
        "sparsity": _sparsity(steps, config.checkpoint.path),
        "students": _made_by(steps, "student"),
        "teacher_caches": _made_by(steps, "teacher-cache"),
        "exact": _exact(steps),
        "mixed": _mixed([*steps, *makers], quality),
        "training": _training(steps),
        "evaluations": _evaluations(steps),
        "samples": _samples(steps, config.reference_quality, config.quality),
        "recipe": _recipe(config.recipe),
        "plan": config.plan,
        "tried": list(config.tried),
        "gates": [*_parity_gates(parity), *_quality_gates(quality, reference, config.budget)],
        "evaluation": reproducible(parity.measurements.get("evaluation")) if parity else None,
        "ollama": dict(ollama),
        "chain": chain,
        "evidence": evidence,
        "versions": tool_versions([*chain, *evidence], ENGINES[runtime]),
        "licences": licences(license_id, license_file, (runtime, *ENGINES[runtime])),
        "files": dict(digests),
    }


def _recipe(recipe: Mapping[str, Any]) -> dict[str, Any]:
    """The recipe without places; its data files by their names."""
    told: dict[str, Any] = reproducible(recipe)
    data = told.get("data")
    if isinstance(data, dict) and data.get("files"):
        data["files"] = [PurePath(file).name for file in data["files"]]
    return told


def bundle_license(config: Config) -> tuple[str | None, Path | None]:
    """The licence of the checkpoint that was exported; what it lacks is that of its base."""
    made, base = license_of(config.checkpoint.path), license_of(config.base.path)
    return made[0] or base[0], made[1] or base[1]


def _data(config: Config, steps: Sequence[Artifact], makers: Sequence[Artifact]) -> dict[str, Any]:
    """SHA-256 of every text that had a part: files trained on, calibration, task. (The evaluation
    text's stands in `evaluation`.)"""
    files = [item for step in steps for item in step.config.get("files") or ()]
    calibration = [maker.config["calibration"] for maker in makers if "calibration" in maker.config]
    return {
        "training": [item["digest"] for item in files],
        "calibration": [item["digest"] for item in calibration],
        "task": config.task.digest if config.task else None,
    }


def _pruning(steps: Sequence[Artifact]) -> list[dict[str, Any]]:
    """What was cut, each time."""
    names = ("parameters_before", "parameters_after", "ratio", "shape_before", "shape", "sizes",
             "decode", "notes", "candidates")  # fmt: skip
    return [
        {"settings": step.config["settings"], **{n: step.measurements[n] for n in names}}
        for step in steps
        if step.stage == "prune"
    ]


def _vocabulary(steps: Sequence[Artifact]) -> list[dict[str, Any]]:
    """What of the vocabulary was cut, each time; pairs are before and after."""
    names = ("vocabulary", "parameters_before_after", "weight_bytes_before_after", "kept_for",
             "tokens", "held_out", "logits", "notes")  # fmt: skip
    return [
        {n.removesuffix("_before_after"): step.measurements[n] for n in names}
        for step in steps
        if step.stage == "prune-vocab"
    ]


def _sparsity(steps: Sequence[Artifact], checkpoint: Path) -> dict[str, Any] | None:
    """Zeros when they were made, and those that are left in the checkpoint that was exported; the
    last time it was done counts."""
    made = [step for step in steps if step.stage == "sparsify"]
    if not made:
        return None
    names = ("zeros", "linear_weights", "zero_share", "zero_share_of_all", "linear_bytes",
             "bitmap_bytes", "passes", "notes")  # fmt: skip
    facts = made[-1].measurements
    left, total = zeros_of(checkpoint, frozenset(read_names(made[-1].path)))
    return {
        "settings": made[-1].config["settings"],
        **{name: facts[name] for name in names},
        "zero_share_at_the_end": round(left / total, 6) if total else None,
    }


def _made_by(steps: Sequence[Artifact], stage: str) -> list[dict[str, Any]]:
    """Settings and figures of everything that the stage made."""
    return [
        {"settings": step.config["settings"], **reproducible(step.measurements)}
        for step in steps
        if step.stage == stage
    ]


def _exact(steps: Sequence[Artifact]) -> dict[str, Any] | None:
    """What training in the blocks of the file gained; the last time it was done counts."""
    made = [step for step in steps if step.stage == "exact-quality"]
    return reproducible(made[-1].measurements) if made else None


def _mixed(made: Sequence[Artifact], quality: Artifact | None) -> dict[str, Any] | None:
    """How the type of each tensor was chosen, what it was to cost and what it did."""
    chosen = [one for one in made if one.stage == "mixed-types"]
    if not chosen:
        return None
    return {
        "settings": chosen[-1].config["settings"],
        **reproducible(chosen[-1].measurements),
        "measured_kld": quality.measurements["kld_mean"] if quality else None,
    }


def _bits(source: Artifact, model_file: str, config: Config) -> float:
    """Bits of the files for each of the checkpoint's parameters."""
    return 8 * model_bytes(source, model_file) / inspect(config.checkpoint.path).parameters


def _model_file(
    source: Artifact, model_file: str, config: Config, digests: Mapping[str, str]
) -> dict[str, Any]:
    facts = source.measurements
    tensors = facts.get("tensors", [])
    return {
        "name": model_file,
        "sha256": digests[model_file],
        "size_bytes": model_bytes(source, model_file),
        "bits_per_weight": facts.get("bits_per_weight") or _bits(source, model_file, config),
        "parameters": facts.get("parameters"),
        "types": [
            {"intended": intended, "actual": actual, "tensors": count}
            for (intended, actual), count in sorted(
                Counter((row["intended"], row["actual"]) for row in tensors).items()
            )
        ],
        "fallbacks": list(facts.get("fallbacks", [])),
    }


def _adapter(config: Config, digests: Mapping[str, str]) -> dict[str, Any]:
    """The adapter that goes beside the model, unmerged; nothing without one."""
    if config.adapter is None:
        return {}
    made = artifacts.load(config.adapter.path)
    name = made.only(".gguf").name
    return {"adapter": {"name": name, "sha256": digests[name], **reproducible(made.measurements)}}


def _training(steps: Sequence[Artifact]) -> list[dict[str, Any]]:
    """Settings and figures of every training in the chain."""
    return [
        {
            "settings": reproducible(step.config["settings"]),
            "curve": CURVE if CURVE in step.files else None,
            **reproducible(step.measurements),
        }
        for step in steps
        if step.stage in TRAINING
    ]


def _evaluations(steps: Sequence[Artifact]) -> list[dict[str, Any]]:
    """Figures of every `evaluate` in the chain, and after which stage it came."""
    return [reproducible(step.measurements) for step in steps if step.format == EVALUATION_FORMAT]


def _samples(
    steps: Sequence[Artifact], reference: Input | None, quality: Input | None
) -> list[dict[str, Any]]:
    """The same prompts before and after, those first whose answers differ: of the chain's first and
    last `evaluate`, or without two of them of the unquantized file and the exported one."""
    evaluations = [step for step in steps if step.format == EVALUATION_FORMAT]
    measured = [step for step in evaluations if ANSWERS in step.files]
    if len(measured) < 2:
        measured = [step for step in map(_loaded, (reference, quality)) if step is not None]
        measured = [step for step in measured if ANSWERS in step.files]
    if len(measured) < 2:
        return []
    before, after = (
        read_rows(step.file(ANSWERS).read_text("utf-8")) for step in (measured[0], measured[-1])
    )
    rows = [
        {
            "task": old.get("task"),
            "prompt": old["prompt"],
            "reference": old.get("reference", old.get("expected")),
            "before": old["answer"],
            "after": new["answer"],
        }
        for old, new in zip(before, after, strict=False)
        if old["prompt"] == new["prompt"]
    ]
    return sorted(rows, key=lambda row: row["before"] == row["after"])[:_SAMPLES]


def read_rows(text: str) -> list[dict[str, Any]]:
    """Rows of JSON lines."""
    return [json.loads(line) for line in text.splitlines()]


def _parity_gates(parity: Artifact | None) -> list[dict[str, Any]]:
    return list(parity.measurements["gates"]) if parity else []


def _quality_gates(
    quality: Artifact | None, reference: Artifact | None, budget: Mapping[str, float]
) -> list[dict[str, Any]]:
    """What quantization cost. Only mean KLD and the kept task score have limits (the budget)."""
    if quality is None:
        return []
    facts = quality.measurements
    if "gates" in facts:
        return list(facts["gates"])
    unquantized = facts["reference_perplexity"]
    gates = [
        _gate("perplexity", facts["perplexity"], None, f"unquantized {figure(unquantized)}"),
        _gate("mean KLD", facts["kld_mean"], budget.get("max_kld"), at_most=True),
        _gate("99th percentile KLD", facts["kld_p99"], None),
        _gate("top-1 agreement", facts["top1_agreement"], None),
    ]
    task = facts.get("task")
    if task:
        detail = f"{task['right']} of {task['examples']} right"
        gates.append(_gate("task score", task["score"], None, detail))
        before = (reference.measurements.get("task") if reference else None) or {}
        if before.get("score"):
            kept = task["score"] / before["score"]
            gates.append(_gate("task score kept", kept, budget.get("min_task_share")))
    return gates


def _gate(
    name: str, figure: float, limit: float | None, detail: str = "", *, at_most: bool = False
) -> dict[str, Any]:
    passed = None
    if limit is not None:
        passed = figure <= limit if at_most else figure >= limit
    return {"name": name, "figure": figure, "limit": limit, "passed": passed, "detail": detail}


def _loaded(input_: Input | None) -> Artifact | None:
    return artifacts.load(input_.path) if input_ else None
