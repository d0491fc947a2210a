"""The GGUF backend: convert, prove parity, quantize and measure until a candidate is chosen."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from toolchain.chain import text_input
from toolchain.export.exported import Exported
from toolchain.pipeline import run_stage
from toolchain.stage import Input

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.job import Job
    from toolchain.plan import ModelPlan

# Types whose quantizer does not look at an importance matrix.
_WITHOUT_IMATRIX = frozenset({"F32", "F16", "BF16", "Q8_0"})


def export(job: Job, plan: ModelPlan, say: Callable[[str], None]) -> Exported:
    """The chosen GGUF with its proofs. Raises `UserError` when no candidate is within budget."""
    from toolchain.evaluate import parity, quality
    from toolchain.export.choose import choose, task_score
    from toolchain.export.gguf import convert

    stage = functools.partial(run_stage, workspace=job.workspace, say=say)
    recipe, source = job.recipe, job.source
    converted = stage(
        convert,
        source,
        convert.Config(intermediate=recipe.export.intermediate, model_name=job.name),
    )
    adapter = _adapter(job, say)
    on_top = Input.of_file(adapter.only(".gguf")) if adapter else None
    proof = stage(
        parity,
        converted,
        parity.Config(
            checkpoint=Input.of_artifact(source),
            evaluation=text_input(job, job.texts.evaluation),
            evaluation_name=job.texts.evaluation.name,
            max_tokens=recipe.evaluate.max_tokens,
            context_tokens=recipe.evaluate.context_tokens,
            kv_cache_type=plan.plan.kv_cache_type,
            trust_remote_code=job.trust_remote_code,
            adapter=Input.of_artifact(job.adapter) if job.adapter else None,
            adapter_file=on_top,
        ),
    )
    measured = quality.Config(
        reference=Input.of_artifact(proof),
        task=job.texts.task,
        task_examples=recipe.evaluate.task_examples,
        adapter_file=on_top,
    )
    reference = stage(quality, converted, measured)
    matrix = functools.cache(lambda: _imatrix(job, source, say))

    def measure(name: str) -> tuple[Artifact, Artifact]:
        quantized = _quantized(job, converted, name, matrix, say)
        return quantized, stage(quality, quantized, measured)

    choice = choose(job, plan.plan, measure, task_score(reference))
    used = (matrix(),) if choice.quantized.config.get("imatrix") else ()
    return Exported(
        model=choice.quantized,
        makers=(converted, *((adapter,) if adapter else ()), *used),
        parity=proof,
        quality=choice.quality,
        reference_quality=reference,
        tried=tuple(record.as_json() for record in choice.tried),
        within_budget=choice.within_budget,
        adapter=adapter,
    )


def _adapter(job: Job, say: Callable[[str], None]) -> Artifact | None:
    """The adapter that stays separate, as a GGUF."""
    from toolchain.export.gguf import convert_adapter

    if job.adapter is None:
        return None
    config = convert_adapter.Config(checkpoint=Input.of_artifact(job.source))
    return run_stage(convert_adapter, job.adapter, config, job.workspace, say)


def _imatrix(job: Job, source: Artifact, say: Callable[[str], None]) -> Artifact:
    from toolchain.export.gguf import imatrix

    config = imatrix.Config(
        calibration=text_input(job, job.texts.calibration),
        max_tokens=job.recipe.export.calibration_tokens,
        trust_remote_code=job.trust_remote_code,
    )
    return run_stage(imatrix, source, config, job.workspace, say)


def _quantized(
    job: Job,
    converted: Artifact,
    name: str,
    matrix: Callable[[], Artifact],
    say: Callable[[str], None],
) -> Artifact:
    from toolchain.export.gguf import quantize

    wanted = job.recipe.export
    with_matrix = wanted.imatrix and name not in _WITHOUT_IMATRIX
    config = quantize.Config(
        quantization=name,
        imatrix=Input.of_artifact(matrix()) if with_matrix else None,
        tensor_types=wanted.tensor_types,
        pure=wanted.pure,
    )
    return run_stage(quantize, converted, config, job.workspace, say)
