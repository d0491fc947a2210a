"""The ONNX backend of encoders: export with proof, choose the INT8 variant by measurement, test."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

from toolchain.export.exported import Exported
from toolchain.export.onnx.encoder_texts import encoder_texts
from toolchain.pipeline import run_stage
from toolchain.stage import Input

if TYPE_CHECKING:
    from toolchain.export.onnx.encoder_choose import Tried
    from toolchain.job import Job
    from toolchain.plan import ModelPlan


def export(job: Job, plan: ModelPlan, say: Callable[[str], None]) -> Exported:
    """The chosen INT8 encoder with its proofs. Raises `UserError` when none is within budget and
    faster than FP32."""
    from toolchain.export.onnx import encoder_check, encoder_export
    from toolchain.export.onnx.encoder_choose import Wishes, choose
    from toolchain.export.onnx.encoder_quality import Budget
    from toolchain.export.onnx.encoder_speed import Shape

    wanted = encoder_export.config_for(job.source.path, trust_remote_code=job.trust_remote_code)
    fp32 = run_stage(encoder_export, job.source, wanted, job.workspace, say)
    texts, target = encoder_texts(job), job.target.onnx
    budget = Budget(max_accuracy_loss=target.max_accuracy_drop)
    sequence = min(target.sequence_tokens, wanted.max_tokens)
    batches = sorted({1, target.batch_size})
    shapes = [Shape(batch=batch, tokens=sequence) for batch in batches]
    wishes = Wishes(
        measurement=texts.measurement.path,
        variant=cast("Any", job.quantization),
        calibration=texts.calibration.path,
        budget=budget,
        shapes=shapes,
    )
    choice = choose(fp32, wishes, job.workspace, say)
    check = encoder_check.Config(reference=Input.of_artifact(fp32), test=texts.test, budget=budget)
    quality = run_stage(encoder_check, choice.quantized, check, job.workspace, say)
    reference = run_stage(encoder_check, fp32, check, job.workspace, say)
    return Exported(
        model=choice.quantized,
        makers=(fp32,),
        parity=fp32,
        quality=quality,
        reference_quality=reference,
        tried=tuple(_record(row, choice.fp32_size_bytes) for row in choice.tried),
        within_budget=all(gate["passed"] is not False for gate in quality.measurements["gates"]),
        speeds={"threads": choice.threads, "fp32_sec": dict(choice.fp32_seconds)}
        | {
            row.name: {"sec": dict(row.seconds), "ratio": dict(row.speedup)} for row in choice.tried
        },
    )


def _record(row: Tried, fp32_size_bytes: int) -> dict[str, Any]:
    """A candidate for manifest and report, without what was timed."""
    size = {"size_ratio": row.size_bytes / fp32_size_bytes} if row.size_bytes else {}
    figures = {name: value for name, value in row.figures.items() if isinstance(value, int | float)}
    told = dataclasses.asdict(row)
    return {
        **{name: value for name, value in told.items() if name not in ("speedup", "seconds")},
        "quantization": row.name,
        "figures": {**size, **figures},
    }
