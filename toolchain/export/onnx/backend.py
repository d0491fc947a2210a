"""The ONNX backend of decoders: export, prove parity, choose the INT8 variant by measurement."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from runtimes.cpu_int8 import int8_support
from toolchain.backend import variants_of
from toolchain.chain import text_input
from toolchain.export.choose import CHOSEN
from toolchain.export.exported import Exported
from toolchain.pipeline import run_stage
from toolchain.plan import AUTO
from toolchain.stage import Input

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.export.onnx.choose import TriedVariant
    from toolchain.job import Job
    from toolchain.plan import ModelPlan

_FIGURES = ("size_ratio", "kld")
_TIMED = ("prefill_ratio", "decode_ratio", "mix_ratio", "prefill_sec", "decode_sec")


def export(job: Job, plan: ModelPlan, say: Callable[[str], None]) -> Exported:
    """The chosen INT8 decoder with its proofs. Raises `UserError` when no variant is within budget
    and faster than FP32."""
    from toolchain.evaluate import onnx_parity, onnx_quality
    from toolchain.export.onnx import export as onnx_export
    from toolchain.export.onnx import quantize, smooth
    from toolchain.export.onnx.choose import Mix, choose_int8
    from toolchain.export.onnx.variants import variant

    stage = functools.partial(run_stage, workspace=job.workspace, say=say)
    trust = job.trust_remote_code
    exported = onnx_export.Config(trust_remote_code=trust)
    # Rounded by calibration: what that lost is measured against the model as it was.
    unrounded = job.unquantized or job.source
    fp32 = stage(onnx_export, unrounded, exported)
    rounded = stage(onnx_export, job.source, exported) if job.unquantized else None
    evaluate = job.recipe.evaluate
    proof = stage(
        onnx_parity,
        fp32,
        onnx_parity.Config(
            checkpoint=Input.of_artifact(unrounded),
            evaluation=text_input(job, job.texts.evaluation),
            evaluation_name=job.texts.evaluation.name,
            max_tokens=evaluate.max_tokens,
            context_tokens=evaluate.context_tokens,
            trust_remote_code=trust,
        ),
    )
    measured = onnx_quality.Config(
        reference=Input.of_artifact(proof),
        task=job.texts.task,
        task_examples=evaluate.task_examples,
    )
    support = int8_support()
    if support.warning:
        say(f"warning: {support.warning}")

    def smoothed(name: str) -> Artifact | None:
        """FP32 with outliers folded into the weights, where that helps this variant."""
        if not job.recipe.export.smooth or variant(name).layers != "dynamic":
            return None
        config = smooth.Config(
            calibration=text_input(job, job.texts.calibration),
            variant=name,
            reduce_range=support.reduce_range,
        )
        found = stage(smooth, fp32, config)
        return found if found.measurements["applied"] else None

    def make(name: str) -> Artifact:
        config = quantize.Config(variant=name, reduce_range=support.reduce_range)
        return stage(quantize, rounded or smoothed(name) or fp32, config)

    def quality_of(artifact: Artifact) -> Artifact:
        return stage(onnx_quality, artifact, measured)

    def kld_of(artifact: Artifact) -> float:
        return float(quality_of(artifact).measurements["kld_mean"])

    name, max_kld = job.quantization, job.budget["max_kld"]
    speeds: dict[str, dict[str, float]] = {}
    if name == AUTO:
        names, mix = variants_of(job.target, encoder=False), job.target.onnx
        wanted = Mix(mix.prefill_tokens, mix.decode_tokens)
        choice = choose_int8(fp32, names, make, kld_of, max_kld, wanted)
        name, model = choice.name, choice.artifact
        tried = tuple(_record(row) for row in sorted(choice.tried, key=lambda row: row.name))
        speeds = {row.name: {part: getattr(row, part) for part in _TIMED} for row in choice.tried}
    else:  # what was asked for is built, whatever it costs
        model = make(name)
        tried = (_asked_for(name, model, fp32, kld_of(model), max_kld),)
    return Exported(
        model=model,
        makers=tuple(filter(None, (fp32, rounded, smoothed(name)))),
        parity=proof,
        quality=quality_of(model),
        reference_quality=quality_of(fp32),
        tried=tried,
        within_budget=kld_of(model) <= max_kld,
        speeds=speeds,
    )


def _asked_for(
    name: str, model: Artifact, fp32: Artifact, kld: float, max_kld: float
) -> dict[str, Any]:
    """The record of the one variant that the user named."""
    size_bytes = int(model.measurements["size_bytes"])
    within = kld <= max_kld
    reason = "asked for" if within else f"asked for; mean KLD {kld:.2g} exceeds {max_kld:g}"
    figures = {"size_ratio": size_bytes / int(fp32.measurements["size_bytes"]), "kld": kld}
    return {
        "quantization": name,
        "verdict": CHOSEN,
        "reason": reason,
        "size_bytes": size_bytes,
        "figures": figures,
    }


def _record(row: TriedVariant) -> dict[str, Any]:
    """A candidate for manifest and report, without what was timed."""
    return {
        **{name: value for name, value in row.as_json().items() if name not in _TIMED},
        "quantization": row.name,
        "figures": {name: getattr(row, name) for name in _FIGURES},
    }
