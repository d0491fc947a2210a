"""From a checkpoint to a bundle proven on its target: the main job, stage by stage.

    result = build(BuildRequest(target="jetson", model="PATH_OR_HUB_ID"))

Every stage's result stays in OUT/<model>/.stages, so a killed build goes on where it stopped, and a
build whose inputs, settings and versions are those of the finished bundle does nothing.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.files import folder_in_the_making
from common.locks import only_writer
from toolchain import up_to_date
from toolchain.chain import run_chain
from toolchain.compress.distill.ahead import require_pair_ahead
from toolchain.job import BuildRequest, Job, as_exported, plan_of, require_room, settle
from toolchain.pipeline import say_on_stderr
from toolchain.stage import Input

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.backend import Backend
    from toolchain.export.exported import Exported
    from toolchain.plan import ModelPlan
    from toolchain.smoke import SmokeResult


# Backend → module with export(job, plan, say) -> Exported.
BACKENDS: dict[str, str] = {
    "gguf": "toolchain.export.gguf.export",
    "onnx": "toolchain.export.onnx.backend",
    "onnx-encoder": "toolchain.export.onnx.encoder_backend",
}
Say = Callable[[str], None]
Export = Callable[["Job", "ModelPlan", Say], "Exported"]


@dataclass(frozen=True)
class BuildResult:
    """A finished build. `smoke` is None when nothing had to be done or the recipe has no smoke."""

    bundle: Path
    up_to_date: bool
    smoke: SmokeResult | None = None

    @property
    def passed(self) -> bool:
        return self.smoke is None or self.smoke.passed


def build(request: BuildRequest, say: Callable[[str], None] = say_on_stderr) -> BuildResult:
    """Build, prove and smoke-test the bundle. Raises `UserError`; what was finished stays."""
    job = settle(request)
    key = up_to_date.build_key(job)
    if up_to_date.is_finished(job.bundle, key):
        return BuildResult(job.bundle, up_to_date=True)
    require_pair_ahead(job)
    begun = as_exported(job)
    if "export" in job.recipe.stages:
        require_room(begun, plan_of(begun))  # of the checkpoint as it came, before the chain's work
    with only_writer(job.workspace.root):
        return _build(job, key, say)


def _build(job: Job, key: str, say: Callable[[str], None]) -> BuildResult:
    job, steps = run_chain(job, say)
    if "export" not in job.recipe.stages:
        return BuildResult(steps[-1].path, up_to_date=False)
    plan = plan_of(job)
    exported = export_backend(job.backend)(job, plan, say)
    if "bundle" not in job.recipe.stages:
        return BuildResult(exported.model.path, up_to_date=False)
    make_bundle(job, plan, steps, exported, say)
    smoke = smoke_test(job, say) if "smoke" in job.recipe.stages else None
    result = BuildResult(job.bundle, up_to_date=False, smoke=smoke)
    up_to_date.write_log(job, key, passed=result.passed)
    return result


def export_backend(backend: Backend) -> Export:
    """The backend's export function."""
    export: Export = importlib.import_module(BACKENDS[backend]).export
    return export


def make_bundle(
    job: Job,
    plan: ModelPlan,
    steps: tuple[Artifact, ...],
    exported: Exported,
    say: Callable[[str], None],
) -> Artifact:
    """Write OUT/<model>/<target>/, complete or not at all."""
    from toolchain.export import bundle

    say("bundle …")
    config = bundle.Config(
        model=job.name,
        target=job.target.model_dump(mode="json"),
        recipe=job.recipe.model_dump(mode="json"),
        plan=dataclasses.asdict(plan.plan),
        budget=job.budget,
        tried=exported.tried,
        base=Input.of_artifact(job.base),
        base_files=dict(job.base.files),
        checkpoint=Input.of_artifact(job.source),
        steps=tuple(map(Input.of_artifact, steps)),
        task=job.texts.task,
        makers=tuple(map(Input.of_artifact, exported.makers)),
        parity=Input.of_artifact(exported.parity),
        quality=Input.of_artifact(exported.quality),
        reference_quality=Input.of_artifact(exported.reference_quality),
        trust_remote_code=job.trust_remote_code,
        adapter=Input.of_artifact(exported.adapter) if exported.adapter else None,
    )
    with folder_in_the_making(job.bundle) as folder:
        return bundle.run(exported.model, config, folder)


def smoke_test(job: Job, say: Callable[[str], None]) -> SmokeResult:
    """The bundle's own smoke test, in a fresh process."""
    from toolchain.smoke import run_smoke

    say("smoke …")
    return run_smoke(job.bundle)
