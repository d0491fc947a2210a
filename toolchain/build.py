"""From a checkpoint to a bundle proven on its target: the main job, stage by stage.

    result = build(BuildRequest(target="jetson", model="PATH_OR_HUB_ID"))

Every stage's result stays in OUT/<model>/.stages, so a killed build goes on where it stopped, and a
build whose inputs, settings and versions are those of the finished bundle does nothing.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.files import folder_in_the_making
from common.locks import only_writer
from toolchain import up_to_date
from toolchain.job import BuildRequest, Job, plan_of, require_room, settle
from toolchain.pipeline import run_stage, say_on_stderr
from toolchain.stage import Input

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.data.text import TextSource
    from toolchain.export.choose import Choice
    from toolchain.plan import ModelPlan
    from toolchain.smoke import SmokeResult

# Types whose quantizer does not look at an importance matrix.
_WITHOUT_IMATRIX = frozenset({"F32", "F16", "BF16", "Q8_0"})


@dataclass(frozen=True)
class BuildResult:
    """A finished build. `smoke` is None when nothing had to be done or the recipe has no smoke."""

    bundle: Path
    up_to_date: bool
    smoke: SmokeResult | None = None

    @property
    def passed(self) -> bool:
        return self.smoke is None or self.smoke.passed


@dataclass(frozen=True)
class Exported:
    """What export leaves for the bundle."""

    converted: Artifact
    imatrix: Artifact | None
    parity: Artifact
    reference_quality: Artifact
    choice: Choice


def build(request: BuildRequest, say: Callable[[str], None] = say_on_stderr) -> BuildResult:
    """Build, prove and smoke-test the bundle. Raises `UserError`; what was finished stays."""
    job = settle(request)
    key = up_to_date.build_key(job)
    if up_to_date.is_finished(job.bundle, key):
        return BuildResult(job.bundle, up_to_date=True)
    plan = plan_of(job)
    require_room(job, plan)
    with only_writer(job.workspace.root):
        return _build(job, plan, key, say)


def _build(job: Job, plan: ModelPlan, key: str, say: Callable[[str], None]) -> BuildResult:
    exported = export(job, plan, say)
    if "bundle" not in job.recipe.stages:
        return BuildResult(exported.choice.quantized.path, up_to_date=False)
    make_bundle(job, plan, exported, say)
    smoke = smoke_test(job, say) if "smoke" in job.recipe.stages else None
    result = BuildResult(job.bundle, up_to_date=False, smoke=smoke)
    up_to_date.write_log(job, key, passed=result.passed)
    return result


def export(job: Job, plan: ModelPlan, say: Callable[[str], None]) -> Exported:
    """Convert, prove parity, then quantize and measure candidates until one is chosen."""
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
    proof = stage(
        parity,
        converted,
        parity.Config(
            checkpoint=Input.of_artifact(source),
            evaluation=_text_input(job, job.evaluation),
            evaluation_name=job.evaluation.name,
            max_tokens=recipe.evaluate.max_tokens,
            context_tokens=recipe.evaluate.context_tokens,
            kv_cache_type=plan.plan.kv_cache_type,
            trust_remote_code=job.trust_remote_code,
        ),
    )
    measured = quality.Config(
        reference=Input.of_artifact(proof),
        task=job.task,
        task_examples=recipe.evaluate.task_examples,
    )
    reference = stage(quality, converted, measured)
    matrix = functools.cache(lambda: _imatrix(job, source, say))

    def measure(name: str) -> tuple[Artifact, Artifact]:
        quantized = _quantized(job, converted, name, matrix, say)
        return quantized, stage(quality, quantized, measured)

    choice = choose(job, plan.plan, measure, task_score(reference))
    used = matrix() if choice.quantized.config.get("imatrix") else None
    return Exported(converted, used, proof, reference, choice)


def make_bundle(
    job: Job, plan: ModelPlan, exported: Exported, say: Callable[[str], None]
) -> Artifact:
    """Write OUT/<model>/<target>/, complete or not at all."""
    from toolchain.export import bundle

    say("bundle …")
    choice = exported.choice
    config = bundle.Config(
        model=job.name,
        target=job.target.model_dump(mode="json"),
        recipe=job.recipe.model_dump(mode="json"),
        plan=dataclasses.asdict(plan.plan),
        budget=job.budget,
        tried=tuple(record.as_json() for record in choice.tried),
        checkpoint=Input.of_artifact(job.source),
        checkpoint_files=dict(job.source.files),
        task=job.task,
        converted=Input.of_artifact(exported.converted),
        imatrix=Input.of_artifact(exported.imatrix) if exported.imatrix else None,
        parity=Input.of_artifact(exported.parity),
        quality=Input.of_artifact(choice.quality),
        reference_quality=Input.of_artifact(exported.reference_quality),
        trust_remote_code=job.trust_remote_code,
    )
    with folder_in_the_making(job.bundle) as folder:
        return bundle.run(choice.quantized, config, folder)


def smoke_test(job: Job, say: Callable[[str], None]) -> SmokeResult:
    """The bundle's own smoke test, in a fresh process."""
    from toolchain.smoke import run_smoke

    say("smoke …")
    return run_smoke(job.bundle)


def _imatrix(job: Job, source: Artifact, say: Callable[[str], None]) -> Artifact:
    from toolchain.export.gguf import imatrix

    config = imatrix.Config(
        calibration=_text_input(job, job.calibration),
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


def _text_input(job: Job, source: TextSource) -> Input:
    """The text as a file that stages read, named by its digest."""
    from toolchain.data.text import write_text

    path = job.workspace.stages / f"text-{source.digest[:16]}.txt"
    if not path.is_file():
        job.workspace.stages.mkdir(parents=True, exist_ok=True)
        write_text(source, path)
    return Input(digest=source.digest, path=path)
