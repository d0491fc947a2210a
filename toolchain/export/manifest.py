"""The bundle's `manifest.json`: the whole chain from base checkpoint to model file, as data.

The reports are written from it and from nothing else.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.documents import license_of
from toolchain.export.provenance import chain_entry, licences, reproducible, tool_versions
from toolchain.report.markdown import figure
from toolchain.stage import Input

if TYPE_CHECKING:
    from toolchain.export.bundle import Config

SCHEMA = 1


def make_manifest(
    source: Artifact,
    config: Config,
    ollama: Mapping[str, Any],
    digests: Mapping[str, str],
    tools: Sequence[str],
) -> dict[str, Any]:
    """The manifest of the quantized `source`; `ollama` tells what the Modelfile says, `digests` are
    those of the bundle's other files."""
    parity, quality = _loaded(config.parity), _loaded(config.quality)
    reference = _loaded(config.reference_quality)
    makers = [_loaded(config.converted), _loaded(config.imatrix), source]
    chain = [chain_entry(stage) for stage in makers if stage is not None]
    evidence = [chain_entry(stage, with_digests=False) for stage in (parity, quality) if stage]
    license_id, license_file = license_of(config.checkpoint.path)
    return {
        "schema": SCHEMA,
        "model": config.model,
        "quantization": source.measurements.get("quantization"),
        "target": config.target,
        "model_file": _model_file(source, digests),
        "base": {"digest": config.checkpoint.digest, "files": config.checkpoint_files},
        "recipe": reproducible(config.recipe),
        "plan": config.plan,
        "tried": list(config.tried),
        "gates": [*_parity_gates(parity), *_quality_gates(quality, reference, config.budget)],
        "evaluation": reproducible(parity.measurements.get("evaluation")) if parity else None,
        "ollama": dict(ollama),
        "chain": chain,
        "evidence": evidence,
        "versions": tool_versions([*chain, *evidence], tools),
        "licences": licences(license_id, license_file),
        "files": dict(digests),
    }


def _model_file(source: Artifact, digests: Mapping[str, str]) -> dict[str, Any]:
    path, facts = source.only(".gguf"), source.measurements
    tensors = facts.get("tensors", [])
    return {
        "name": path.name,
        "sha256": digests[path.name],
        "size_bytes": path.stat().st_size,
        "bits_per_weight": facts.get("bits_per_weight"),
        "parameters": facts.get("parameters"),
        "types": [
            {"intended": intended, "actual": actual, "tensors": count}
            for (intended, actual), count in sorted(
                Counter((row["intended"], row["actual"]) for row in tensors).items()
            )
        ],
        "fallbacks": list(facts.get("fallbacks", [])),
    }


def _parity_gates(parity: Artifact | None) -> list[dict[str, Any]]:
    return list(parity.measurements["gates"]) if parity else []


def _quality_gates(
    quality: Artifact | None, reference: Artifact | None, budget: Mapping[str, float]
) -> list[dict[str, Any]]:
    """What quantization cost. Only mean KLD and the kept task score have limits (the budget)."""
    if quality is None:
        return []
    facts = quality.measurements
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
