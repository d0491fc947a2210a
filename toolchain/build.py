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

from common.files import folder_in_the_making, write_json
from toolchain import up_to_date
from toolchain.chain import State, run_chain
from toolchain.compress.distill.ahead import require_pair_ahead
from toolchain.job import BuildRequest, Job, as_exported, plan_of, require_room, settle
from toolchain.ledger.keep import exported_within
from toolchain.pipeline import say_on_stderr, writing
from toolchain.stage import Input
from toolchain.trust.sums import LOG_FOLDER

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.backend import Backend
    from toolchain.export.exported import Exported
    from toolchain.ledger.budget import Broken
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
    with writing(job.workspace):
        return _build(job, key, say)


def _build(job: Job, key: str, say: Callable[[str], None]) -> BuildResult:
    state = run_chain(job, say)
    if "export" not in job.recipe.stages:
        made = state.job.source if state.rolled_back else state.steps[-1]
        return BuildResult(made.path, up_to_date=False)
    state, plan, exported = _exported(state, say)
    job = state.job
    if "bundle" not in job.recipe.stages:
        return BuildResult(exported.model.path, up_to_date=False)
    make_bundle(state, plan, exported, say)
    smoke = smoke_test(job, say) if "smoke" in job.recipe.stages else None
    result = BuildResult(job.bundle, up_to_date=False, smoke=smoke)
    # The report reads it.
    up_to_date.write_log(job, None, passed=result.passed, speeds=exported.speeds)
    write_reports(job)
    # Last: now the build is finished.
    up_to_date.write_log(job, key, passed=result.passed, speeds=exported.speeds)
    return result


def _exported(state: State, say: Callable[[str], None]) -> tuple[State, ModelPlan, Exported]:
    """Export the chain's model; where that breaks a budget and may be undone, the one before."""
    while True:
        plan = plan_of(state.job)
        exported = export_backend(state.job.backend)(state.job, plan, say)
        after = exported_within(state, plan, exported, say)
        if len(_undone(after)) == len(_undone(state)):
            return after, plan, exported
        state = after


def _undone(state: State) -> tuple[Broken, ...]:
    return state.ledger.rolled_back if state.ledger else ()


def write_reports(job: Job) -> None:
    """What depends on the machine, and the report of everything: into the bundle's log."""
    from toolchain.ledger import file as ledger_file
    from toolchain.report.files import write_report_files

    own = ledger_file.read_ledger(job.bundle / ledger_file.FILE)
    full = ledger_file.with_costs(own, job.workspace.events)
    write_json(job.bundle / LOG_FOLDER / ledger_file.FILE, full)
    write_report_files(job.bundle)


def export_backend(backend: Backend) -> Export:
    """The backend's export function."""
    export: Export = importlib.import_module(BACKENDS[backend]).export
    return export


def make_bundle(
    state: State, plan: ModelPlan, exported: Exported, say: Callable[[str], None]
) -> Artifact:
    """Write OUT/<model>/<target>/, complete or not at all."""
    from toolchain.export import bundle
    from toolchain.ledger.file import as_json

    job, steps = state.job, state.steps
    assert state.ledger is not None  # every chain begins one
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
        ledger=as_json(state.ledger, job.budget),
    )
    with folder_in_the_making(job.bundle) as folder:
        return bundle.run(exported.model, config, folder)


def smoke_test(job: Job, say: Callable[[str], None]) -> SmokeResult:
    """The bundle's own smoke test, in a fresh process."""
    from toolchain.smoke import run_smoke

    say("smoke …")
    return run_smoke(job.bundle)
