"""A real bundle of a tiny checkpoint, made by the real stages, for tests of what comes after."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from common.files import folder_in_the_making, sha256_file
from targets.planner import plan
from targets.registry import load_target
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.evaluate import parity, quality
from toolchain.export import bundle
from toolchain.export.gguf import convert, quantize
from toolchain.pipeline import Workspace, run_stage
from toolchain.plan import model_shape, type_sizes
from toolchain.stage import Input
from toolchain.trust.sums import write_sums

QUANTIZATION = "Q4_K_M"
EVALUATION = "The quick brown fox jumps over the lazy dog. 把客厅的灯打开。\n" * 40


def make_bundle(
    checkpoint: Path, root: Path, *, task: bool = False, proof: bool = True, target: str = "laptop"
) -> Path:
    """Convert, quantize and bundle `checkpoint`, with `proof` also parity and quality; the bundle's
    folder."""
    workspace = Workspace(root / checkpoint.name)
    files = {p.name: sha256_file(p) for p in sorted(checkpoint.iterdir()) if p.is_file()}
    base = Artifact(checkpoint, "hf", files, "checkpoint")
    root.mkdir(parents=True, exist_ok=True)
    examples = _task_file(root) if task else None
    device = load_target(target)
    info = inspect(checkpoint)
    planned = plan(model_shape(info), device, type_sizes(info, [QUANTIZATION]))
    converted = run_stage(convert, base, convert.Config(model_name="tiny"), workspace)
    quantized = run_stage(
        quantize, converted, quantize.Config(quantization=QUANTIZATION), workspace
    )
    config = bundle.Config(
        model="tiny",
        target=device.model_dump(mode="json"),
        recipe={"name": "export"},
        plan=dataclasses.asdict(planned),
        budget={"max_kld": 0.5, "min_task_share": 0.5},
        base=Input.of_artifact(base),
        base_files=files,
        checkpoint=Input.of_artifact(base),
        task=examples,
        makers=(Input.of_artifact(converted),),
        **(_evidence(base, converted, quantized, examples, workspace) if proof else {}),
    )
    folder = workspace.root / device.name
    with folder_in_the_making(folder) as partial:
        bundle.run(quantized, config, partial)
    return folder


def _evidence(
    base: Artifact,
    converted: Artifact,
    quantized: Artifact,
    examples: Input | None,
    workspace: Workspace,
) -> dict[str, Input]:
    text = workspace.root.parent / "evaluation.txt"
    text.write_text(EVALUATION, encoding="utf-8")
    settings = parity.Config(
        checkpoint=Input.of_artifact(base), evaluation=Input.of_file(text), max_tokens=128
    )
    proof = run_stage(parity, converted, settings, workspace)
    measure = quality.Config(reference=Input.of_artifact(proof), task=examples)
    return {
        "parity": Input.of_artifact(proof),
        "quality": Input.of_artifact(run_stage(quality, quantized, measure, workspace)),
        "reference_quality": Input.of_artifact(run_stage(quality, converted, measure, workspace)),
    }


def edit_profile(folder: Path, **changes: Any) -> None:
    """Change `profile.json` and renew SHA256SUMS; dicts are merged."""
    path = folder / bundle.PROFILE_FILE
    profile = json.loads(path.read_text("utf-8"))
    for name, value in changes.items():
        profile[name] = {**profile[name], **value} if isinstance(value, dict) else value
    path.write_text(json.dumps(profile), encoding="utf-8")
    write_sums(folder)


def edit_first_prompt(folder: Path, **changes: Any) -> None:
    """Change the first row of `prompts.jsonl` and renew SHA256SUMS."""
    path = folder / bundle.PROMPTS_FILE
    first, *others = path.read_text("utf-8").splitlines(keepends=True)
    row = {**json.loads(first), **changes}
    path.write_text(json.dumps(row, ensure_ascii=False) + "\n" + "".join(others), "utf-8")
    write_sums(folder)


def _task_file(root: Path) -> Input:
    path = root / "task.jsonl"
    rows = [
        {
            "messages": [{"role": "user", "content": f"lamp {number} on"}],
            "answer": json.dumps({"lamp": number}),
        }
        for number in range(24)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return Input.of_file(path)
