"""Write the ledger while a build runs, and hold each line against the budget.

    state = begun(state, say)
    state = noted(before, after, say)          # after every stage of the chain
    state = exported_within(state, exported, say)

A broken budget ends the build, or with `quality.on_broken: roll_back` takes it back to the last
model within budget, which is then exported.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from toolchain.ledger.budget import Broken, broken, stopped
from toolchain.ledger.entry import COMPANION_TASK, DATA_TASK, ORIGINAL, Entry, Planned

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.chain import State
    from toolchain.export.exported import Exported
    from toolchain.job import Job
    from toolchain.plan import ModelPlan

Say = Callable[[str], None]
ROLL_BACK = "roll_back"
_LABELS = ("accuracy", "macro_f1")


@dataclass(frozen=True)
class Ledger:
    """Entries in order, the original first. `reference` is the original's probe, None where stages
    are not measured on their own; `rolled_back` are the budgets whose stages were undone."""

    entries: tuple[Entry, ...]
    reference: Artifact | None = None
    rolled_back: tuple[Broken, ...] = ()

    @property
    def original(self) -> Entry:
        return self.entries[0]

    @property
    def last(self) -> Entry:
        """The last entry that was not undone."""
        return next(entry for entry in reversed(self.entries) if entry.kept)

    def with_entry(self, entry: Entry) -> Ledger:
        return dataclasses.replace(self, entries=(*self.entries, entry))

    def with_last(self, **changes: Any) -> Ledger:
        """The last entry that was kept, changed."""
        at = max(i for i, entry in enumerate(self.entries) if entry.kept)
        changed = dataclasses.replace(self.entries[at], **changes)
        entries = (*self.entries[:at], changed, *self.entries[at + 1 :])
        return dataclasses.replace(self, entries=entries)


def begun(state: State, say: Say) -> State:
    """The state with the original's entry."""
    job = state.job
    figures: dict[str, Any] = {"kld_mean": 0.0, "top1_agreement": 1.0}
    reference = None
    if job.recipe.ledger and job.backend != "onnx-encoder" and job.recipe.changes_model:
        reference = _probe(job, job.source, None, None, say)
        figures = _figures(reference)
    entry = dataclasses.replace(_stored(job, ORIGINAL, job.source), **figures)
    return dataclasses.replace(state, ledger=Ledger((entry,), reference))


def noted(before: State, after: State, say: Say) -> State:
    """The state after one more stage, with an entry where that changed the model and with the task
    scores where it measured them; or the one to go back to, `rolled_back`.

    Raises `UserError` when a budget is broken and nothing is to be undone.
    """
    from toolchain.evaluate.measure import FORMAT as EVALUATION

    ledger = before.ledger
    assert ledger is not None  # every chain begins one
    if _model(after).path != _model(before).path:
        entry = _chain_entry(after, ledger, say)
        back = before if _can_be_exported(before) else before.back
        ledger = ledger.with_entry(entry)
        after = dataclasses.replace(after, back=back)
    for made in after.steps[len(before.steps) :]:
        if made.format == EVALUATION:
            tasks = made.measurements["tasks"].items()
            ledger = ledger.with_last(tasks={name: dict(task["scores"]) for name, task in tasks})
    return _within(dataclasses.replace(after, ledger=ledger), say, exported=False)


def exported_within(state: State, plan: ModelPlan, exported: Exported, say: Say) -> State:
    """The state with the exported file's entry; or the one to export instead, `rolled_back` longer
    than before. Raises `UserError` as `noted` does."""
    assert state.ledger is not None  # every chain begins one
    ledger = _with_export(state.job, state.ledger, plan, exported, say)
    return _within(dataclasses.replace(state, ledger=ledger), say, exported=True)


def _within(state: State, say: Say, *, exported: bool) -> State:
    ledger = state.ledger
    assert ledger is not None
    budget = state.job.budget
    faults = broken(ledger.last, ledger.original, budget, exported=exported)
    if not faults:
        return state
    back = state.back
    nearest = back.ledger.last if back and back.ledger else None
    rolls = state.job.recipe.quality.on_broken == ROLL_BACK
    if back is None or not rolls:
        raise stopped(faults, nearest, rolled=rolls)
    assert nearest is not None and back.ledger is not None
    say(f"rolled back to stage '{nearest.stage}': {'; '.join(fault.text() for fault in faults)}")
    kept = len(back.ledger.entries)
    undone = tuple(dataclasses.replace(entry, kept=False) for entry in ledger.entries[kept:])
    rolled = dataclasses.replace(
        ledger,
        entries=(*ledger.entries[:kept], *undone),
        rolled_back=(*ledger.rolled_back, *faults),
    )
    return dataclasses.replace(back, ledger=rolled)


def _model(state: State) -> Artifact:
    """What the chain has made so far: the adapter that waits for its merge, else the checkpoint."""
    return state.adapter or state.job.source


def _can_be_exported(state: State) -> bool:
    """Whether a bundle can be made of it: no adapter waits for its merge."""
    return state.adapter is None or state.job.adapter is not None


def _chain_entry(state: State, ledger: Ledger, say: Say) -> Entry:
    """The entry of what a stage of the chain made: a checkpoint, or an adapter on one."""
    job, made = state.job, _model(state)
    entry, base = _stored(job, made.stage, made), None
    if state.adapter is not None:
        base = job.source
        size_bytes = sum(made.file(name).stat().st_size for name in made.files)
        added = int(made.measurements.get("trainable_parameters") or 0)
        entry = dataclasses.replace(
            entry, parameters=entry.parameters + added, size_bytes=entry.size_bytes + size_bytes
        )
    if ledger.reference is None:
        return entry
    found = _probe(job, made, ledger.reference, base, say)
    return dataclasses.replace(entry, **_figures(found))


def _stored(job: Job, stage: str, made: Artifact) -> Entry:
    """The entry of the job's checkpoint as it is stored, nothing measured."""
    from toolchain.plan import plan_stored

    info = job.info
    try:
        plan = plan_stored(info, job.target, job.backend)
        found = plan.candidates[0]
        planned = Planned(
            plan.context_tokens, found.total_bytes, round(found.decode_tokens_per_sec, 3)
        )
    except UserError:  # a config that the planner cannot read: the figures stay open
        planned = None
    return Entry(
        stage=stage,
        result=made.path.name,
        parameters=info.parameters,
        size_bytes=info.weight_bytes,
        bits_per_weight=8 * info.weight_bytes / info.parameters,
        planned=planned,
    )


def _with_export(job: Job, ledger: Ledger, plan: ModelPlan, exported: Exported, say: Say) -> Ledger:
    """The ledger with the exported file; where no stage changed the model, the export's own
    comparison with the unquantized file is that with the original."""
    entry = _file_entry(job, plan, exported)
    quality, reference = exported.quality, exported.reference_quality
    figures: dict[str, Any] = {}
    if job.adapter is not None:  # a probe would see the base alone
        pass
    elif ledger.reference is not None:
        figures = _figures(_probe(job, exported.model, ledger.reference, None, say))
    elif job.source.path == job.base.path:
        tasks = ledger.original.tasks or _task(job, reference.measurements)
        ledger = ledger.with_last(**_of_unquantized(quality), tasks=tasks)
        figures = _figures(quality)
    tasks = _task(job, quality.measurements)
    return ledger.with_entry(dataclasses.replace(entry, **figures, tasks=tasks))


def _file_entry(job: Job, plan: ModelPlan, exported: Exported) -> Entry:
    """Size and plan of the exported file."""
    from toolchain.checkpoint.inspect import inspect

    facts = exported.model.measurements
    name = str(facts.get("quantization") or facts.get("variant"))
    chosen = next((c for c in plan.plan.candidates if c.size.quantization == name), None)
    planned = None
    if chosen is not None:
        speed = round(chosen.decode_tokens_per_sec, 3)
        planned = Planned(plan.plan.context_tokens, chosen.total_bytes, speed)
    parameters = inspect(job.source.path).parameters
    size_bytes = int(facts.get("size_bytes") or _bytes_of(exported.model))
    bits = facts.get("bits_per_weight") or 8 * size_bytes / parameters
    return Entry(
        stage=name,
        result=exported.model.path.name,
        parameters=parameters,
        size_bytes=size_bytes,
        bits_per_weight=float(bits),
        planned=planned,
    )


def _bytes_of(artifact: Artifact) -> int:
    """An ONNX graph and the data beside it."""
    files = [name for name in artifact.files if ".onnx" in name]
    return sum(artifact.file(name).stat().st_size for name in files)


def _probe(
    job: Job, source: Artifact, reference: Artifact | None, base: Artifact | None, say: Say
) -> Artifact:
    from toolchain.chain import text_input
    from toolchain.ledger import probe
    from toolchain.pipeline import run_stage
    from toolchain.stage import Input

    config = probe.Config(
        text=text_input(job, job.texts.evaluation),
        reference=Input.of_artifact(reference) if reference else None,
        base=Input.of_artifact(base) if base else None,
        max_tokens=min(job.recipe.evaluate.max_tokens, probe.MAX_TOKENS),
        context_tokens=min(job.recipe.evaluate.context_tokens, probe.CONTEXT_TOKENS),
        trust_remote_code=job.trust_remote_code,
    )
    return run_stage(probe, source, config, job.workspace, say)


def _figures(found: Artifact) -> dict[str, Any]:
    """What the entry takes of a probe or of the export's quality stage (an encoder's has figures of
    its own)."""
    measured = found.measurements
    if own := measured.get("figures"):
        names = {"kld_mean": "kld", "top1_agreement": "agreement"}
        return {name: own.get(theirs) for name, theirs in names.items()}
    names_of_text = ("perplexity", "perplexity_stderr", "kld_mean", "top1_agreement", "positions")
    return {name: measured.get(name) for name in names_of_text}


def _of_unquantized(quality: Artifact) -> dict[str, Any]:
    """What the quality stage says of the unquantized file, which it compared with."""
    measured, names = quality.measurements, ("perplexity", "perplexity_stderr")
    found = {name: measured.get(f"reference_{name}") for name in names}
    return {**found, "positions": measured.get("positions")}


def _task(job: Job, measured: Any) -> dict[str, dict[str, float]]:
    """The task's score as an `evaluate` would name it."""
    own = job.texts.task is not None and job.texts.task.path.is_relative_to(job.base.path)
    name = COMPANION_TASK if own else DATA_TASK
    if measured.get("task"):
        return {name: {"exact_match": float(measured["task"]["score"])}}
    figures = measured.get("figures") or {}
    scores = {label: float(figures[label]) for label in _LABELS if label in figures}
    return {name: scores} if scores else {}
