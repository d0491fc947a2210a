"""The GGUF backend: convert, prove parity, quantize and measure until a candidate is chosen."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING

from common.errors import UserError
from targets.quantization import MIXED
from toolchain.chain import text_input
from toolchain.export.exported import Exported
from toolchain.pipeline import run_stage
from toolchain.stage import Input

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.compress.exact.settings import ExactPlan
    from toolchain.job import Job
    from toolchain.plan import ModelPlan

# Types whose quantizer does not look at an importance matrix.
_WITHOUT_IMATRIX = frozenset({"F32", "F16", "BF16", "Q8_0"})


def export(job: Job, plan: ModelPlan, say: Callable[[str], None]) -> Exported:
    """The chosen GGUF with its proofs. Raises `UserError` when no candidate is within budget."""
    from toolchain.compress.exact.sidecar import read_plan
    from toolchain.evaluate import quality
    from toolchain.export.choose import OWN_TYPES, choose, plainly, task_score

    stage = functools.partial(run_stage, workspace=job.workspace, say=say)
    recipe, source = job.recipe, job.source
    exact = read_plan(source.path)
    converted = _converted(job, source, say)
    adapter = _adapter(job, say)
    on_top = Input.of_file(adapter.only(".gguf")) if adapter else None
    proof = _proven(job, converted, source, plan, on_top, say)
    reference = proof
    unquantized = converted
    if exact is not None and job.unquantized is not None:
        unquantized = _converted(job, job.unquantized, say)
        reference = _proven(job, unquantized, job.unquantized, plan, on_top, say)
    measured = quality.Config(
        reference=Input.of_artifact(reference),
        task=job.texts.task,
        task_examples=recipe.evaluate.task_examples,
        adapter_file=on_top,
    )
    before = stage(quality, unquantized, measured)
    matrix = functools.cache(lambda: importance_matrix(job, source, say))
    types = functools.cache(lambda: mixed_types(job, source, say))

    def measure(name: str) -> tuple[Artifact, Artifact]:
        if exact is not None:
            quantized = _exactly_quantized(job, converted, name, exact, say)
        elif name == MIXED:
            quantized = _quantized(job, converted, name, matrix, say, types())
        else:
            quantized = _quantized(job, converted, name, matrix, say)
        return quantized, stage(quality, quantized, measured)

    alone = measured.model_copy(update={"task": None})
    choice = choose(job, plan.plan, measure, task_score(before))
    tried = choice.tried
    if exact is not None and job.unquantized is not None:
        own = functools.partial(importance_matrix, job, job.unquantized, say)
        plain = _quantized(job, unquantized, exact.quantization, own, say)
        tried = (plainly(plain, stage(quality, plain, alone)), *tried)
    used = (matrix(),) if choice.quantized.config.get("imatrix") else ()
    if exact is None and choice.quantized.config.get("label") == MIXED:
        used = (*used, types())
        sized_as = job.recipe.mixed.sized_as
        if sized_as and sized_as not in [record.quantization for record in tried]:
            plain = _quantized(job, converted, sized_as, matrix, say)
            tried = (plainly(plain, stage(quality, plain, alone), OWN_TYPES), *tried)
    return Exported(
        model=choice.quantized,
        makers=(converted, *((adapter,) if adapter else ()), *used),
        parity=proof,
        quality=choice.quality,
        reference_quality=before,
        tried=tuple(record.as_json() for record in tried),
        within_budget=choice.within_budget,
        adapter=adapter,
    )


def unquantized_file(job: Job, say: Callable[[str], None]) -> Artifact:
    """The job's checkpoint as `export` converts it, not proven yet."""
    return _converted(job, job.source, say)


def quantized_file(job: Job, name: str, say: Callable[[str], None]) -> Artifact:
    """The job's checkpoint as `export` quantizes it to a type, with nothing proven or measured."""
    matrix = functools.cache(lambda: importance_matrix(job, job.source, say))
    return _quantized(job, unquantized_file(job, say), name, matrix, say)


def _converted(job: Job, checkpoint: Artifact, say: Callable[[str], None]) -> Artifact:
    from toolchain.compress.exact.sidecar import is_exact
    from toolchain.export.gguf import convert

    # The values of blocks need every bit of float32.
    wanted = "f32" if is_exact(checkpoint.path) else job.recipe.export.intermediate
    config = convert.Config(
        intermediate=wanted, model_name=job.name, trust_remote_code=job.trust_remote_code
    )
    return run_stage(convert, checkpoint, config, job.workspace, say)


def _proven(
    job: Job,
    converted: Artifact,
    checkpoint: Artifact,
    plan: ModelPlan,
    on_top: Input | None,
    say: Callable[[str], None],
) -> Artifact:
    """The proof that the file is the checkpoint, with the file's logits."""
    from toolchain.evaluate import parity

    wanted = job.recipe.evaluate
    config = parity.Config(
        checkpoint=Input.of_artifact(checkpoint),
        evaluation=text_input(job, job.texts.evaluation),
        evaluation_name=job.texts.evaluation.name,
        max_tokens=wanted.max_tokens,
        context_tokens=wanted.context_tokens,
        kv_cache_type=plan.plan.kv_cache_type,
        trust_remote_code=job.trust_remote_code,
        adapter=Input.of_artifact(job.adapter) if job.adapter else None,
        adapter_file=on_top,
    )
    return run_stage(parity, converted, config, job.workspace, say)


def _adapter(job: Job, say: Callable[[str], None]) -> Artifact | None:
    """The adapter that stays separate, as a GGUF."""
    from toolchain.export.gguf import convert_adapter

    if job.adapter is None:
        return None
    config = convert_adapter.Config(checkpoint=Input.of_artifact(job.source))
    return run_stage(convert_adapter, job.adapter, config, job.workspace, say)


def importance_matrix(job: Job, source: Artifact, say: Callable[[str], None]) -> Artifact:
    """The matrix of the checkpoint on the job's calibration text."""
    from toolchain.export.gguf import imatrix

    config = imatrix.Config(
        calibration=text_input(job, job.texts.calibration),
        max_tokens=job.recipe.export.calibration_tokens,
        trust_remote_code=job.trust_remote_code,
    )
    return run_stage(imatrix, source, config, job.workspace, say)


def mixed_types(
    job: Job, source: Artifact, say: Callable[[str], None], *, rounded: bool = False
) -> Artifact:
    """The type of every tensor of the checkpoint, chosen by the job's calibration text; `rounded`
    says that rounding by calibration follows."""
    from toolchain.export.gguf.mixed import costs
    from toolchain.export.gguf.mixed import stage as mixed
    from toolchain.export.gguf.mixed.speed import decode_costs

    settings, with_imatrix = job.recipe.mixed, job.recipe.export.imatrix
    matrix = Input.of_artifact(importance_matrix(job, source, say)) if with_imatrix else None
    measured = costs.Config.of(
        settings,
        calibration=text_input(job, job.texts.calibration),
        imatrix=matrix,
        trust_remote_code=job.trust_remote_code,
    )
    whole = settings.size_bytes is not None
    config = mixed.Config(
        costs=Input.of_artifact(run_stage(costs, source, measured, job.workspace, say)),
        with_imatrix=with_imatrix,
        unquantized=Input.of_artifact(_converted(job, source, say)) if whole else None,
        decode_costs=dict(decode_costs()) if settings.keep_speed else {},
        rounded=rounded,
        settings=settings,
    )
    return run_stage(mixed, source, config, job.workspace, say)


def _quantized(
    job: Job,
    converted: Artifact,
    name: str,
    matrix: Callable[[], Artifact],
    say: Callable[[str], None],
    types: Artifact | None = None,
) -> Artifact:
    """The file of a type, or with the `types` that were chosen for each tensor."""
    from toolchain.export.gguf import quantize
    from toolchain.export.gguf.mixed.stage import read_types

    wanted = job.recipe.export
    plain, tensor_types = (name, wanted.tensor_types) if types is None else read_types(types.path)
    with_matrix = wanted.imatrix and name not in _WITHOUT_IMATRIX
    config = quantize.Config(
        quantization=plain,
        imatrix=Input.of_artifact(matrix()) if with_matrix else None,
        tensor_types=tensor_types,
        pure=wanted.pure,
        label=None if types is None else name,
    )
    return run_stage(quantize, converted, config, job.workspace, say)


def _exactly_quantized(
    job: Job, converted: Artifact, name: str, exact: ExactPlan, say: Callable[[str], None]
) -> Artifact:
    """The file with the checkpoint's own blocks. Raises `UserError` for another type
    than theirs."""
    from toolchain.export.gguf import quantize

    if name != exact.label:
        raise UserError(
            f"{job.name} has the blocks of {exact.label}, not of {name}",
            f"quantization={exact.label}",
        )
    config = quantize.Config(
        quantization=exact.quantization,
        tensor_types=exact.tensor_types,
        pure=exact.pure,
        exact=Input.of_artifact(job.source),
        label=MIXED if exact.mixed else None,
    )
    return run_stage(quantize, converted, config, job.workspace, say)
