"""The recipe's stages before the export: what they make of the checkpoint, step by step.

    state = run_chain(job, say)

Each step takes what the step before it left: a checkpoint, perhaps with an adapter that is not
merged yet. Another stage is one function here and one row in `_STEPS`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from common.folders import make_folder
from targets.quantization import MIXED
from toolchain.compress.exact.settings import Mix
from toolchain.job import Job, settle_texts
from toolchain.ledger.entry import COMPANION_TASK, DATA_TASK
from toolchain.ledger.keep import Ledger, begun, noted
from toolchain.pipeline import Workspace, run_stage
from toolchain.rounds import run_rounds
from toolchain.stage import Input

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.compress.gptq.settings import Gptq
    from toolchain.data.text import TextSource

Say = Callable[[str], None]
ONNX_INT8 = "int8"


@dataclass(frozen=True)
class State:
    """Where a chain stands. `job.source` is the checkpoint; `adapter` was trained on it and is not
    merged; `data` are the prepared splits; `steps` is what was made so far; `back` is the state
    before the last change of the model, to go back to when that broke the budget."""

    job: Job
    adapter: Artifact | None = None
    data: Artifact | None = None
    steps: tuple[Artifact, ...] = ()
    ledger: Ledger | None = None
    back: State | None = None

    @property
    def rolled_back(self) -> bool:
        """Whether a stage was undone; none follows it."""
        return self.ledger is not None and bool(self.ledger.rolled_back)

    def after(self, made: Artifact, **changes: object) -> State:
        """The state once a step has made something."""
        return dataclasses.replace(self, steps=(*self.steps, made), **changes)  # type: ignore[arg-type]


def run_chain(job: Job, say: Say) -> State:
    """The job with the checkpoint and texts that the chain leaves, every artifact on the way, and
    the ledger. A stage that broke the budget and was rolled back is the last one.

    Raises `UserError`; what was finished stays.
    """
    state = State(job)
    if job.data:
        state = _prepare(state, say)
    state = begun(state, say)
    names = job.recipe.chain
    if job.recipe.rounds.most == 1:
        return _take(names, state, say)
    first = _take(names[:1], state, say)
    return run_rounds(first, lambda now: _take(names[1:], now, say), say)


def _take(names: Sequence[str], state: State, say: Say) -> State:
    """The stages in order, each with its entry in the ledger; one that is undone is the last."""
    for name in names:
        state = noted(state, _STEPS[name](state, say), say)
        if state.rolled_back:
            break
    return state


def text_input(job: Job, source: TextSource) -> Input:
    """The text as a file of the job."""
    return text_file(source, job.workspace)


def text_file(source: TextSource, workspace: Workspace) -> Input:
    """The text as a file that stages read, named by its digest."""
    from toolchain.data.text import write_text

    path = workspace.stages / f"text-{source.digest[:16]}.txt"
    if not path.is_file():
        make_folder(workspace.stages)
        write_text(source, path)
    return Input(digest=source.digest, path=path)


def _prepare(state: State, say: Say) -> State:
    from toolchain.data.prepare import stage as prepare

    job, wanted = state.job, state.job.recipe.data
    config = prepare.Config(
        files=job.data,
        format=wanted.format,
        map=wanted.map,
        split=wanted.split,
        seed=wanted.seed,
        max_tokens=job.recipe.training.max_tokens,
        drop_long=wanted.drop_long,
        variants=wanted.variants,
        trust_remote_code=job.trust_remote_code,
    )
    data = run_stage(prepare, job.source, config, job.workspace, say)
    texts = settle_texts(job.source.path, job.recipe, job.backend, data.path)
    return state.after(data, job=dataclasses.replace(job, texts=texts), data=data)


def _prune(state: State, say: Say) -> State:
    from toolchain.compress.prune import stage as prune
    from toolchain.export.gguf.mixed.settings import DEFAULT_SIZE

    job = state.job
    settings = job.recipe.prune
    if settings.quantization is None:  # widths snap to the blocks of the type that is tried first
        first = job.target.quantization[0] if job.quantization == "auto" else job.quantization
        if first == MIXED:
            first = job.recipe.mixed.sized_as or DEFAULT_SIZE
        settings = settings.model_copy(
            update={"quantization": first if job.backend == "gguf" else ONNX_INT8}
        )
    config = prune.Config(
        text=text_input(job, job.texts.calibration),
        target=job.target.model_dump(mode="json") if settings.aims_at_speed else None,
        settings=settings,
        trust_remote_code=job.trust_remote_code,
    )
    made = run_stage(prune, job.source, config, job.workspace, say)
    return state.after(made, job=_on(job, made))


def _prune_vocab(state: State, say: Say) -> State:
    from toolchain.compress.prune_vocab import stage as prune_vocab
    from toolchain.compress.prune_vocab.texts import settled

    job, settings = state.job, state.job.recipe.vocabulary
    calibration = text_input(job, job.texts.calibration)
    config = prune_vocab.Config(
        text=settled(settings, calibration, job.base.path, job.texts.data),
        evaluation=text_input(job, job.texts.evaluation),
        settings=settings.model_copy(update={"text": ()}),
        trust_remote_code=job.trust_remote_code,
    )
    made = run_stage(prune_vocab, job.source, config, job.workspace, say)
    return state.after(made, job=_on(job, made))


def _sparsify(state: State, say: Say) -> State:
    from toolchain.compress.sparse import stage as sparsify

    job = state.job
    config = sparsify.Config(
        text=text_input(job, job.texts.calibration),
        settings=job.recipe.sparsify,
        trust_remote_code=job.trust_remote_code,
    )
    made = run_stage(sparsify, job.source, config, job.workspace, say)
    return state.after(made, job=_on(job, made))


def _awq(state: State, say: Say) -> State:
    from toolchain.compress.awq import stage as awq

    job, settings, export = state.job, state.job.recipe.awq, state.job.recipe.export
    mix = Mix(
        quantization=settings.quantization, tensor_types=export.tensor_types, pure=export.pure
    )
    config = awq.Config(
        text=text_input(job, job.texts.calibration),
        settings=settings,
        tensor_types=mix.tensor_types,
        pure=mix.pure,
        trust_remote_code=job.trust_remote_code,
    )
    made = run_stage(awq, job.source, config, job.workspace, say)
    return _better(state, made, say, mix)


def _gptq(state: State, say: Say) -> State:
    job, settings = state.job, state.job.recipe.gptq
    if settings.quantization.lower() != MIXED:
        return _better(state, _calibrated(job, settings, say), say)
    from toolchain.export.gguf.export import mixed_types
    from toolchain.export.gguf.mixed.stage import read_types

    types = mixed_types(job, job.source, say, rounded=True)
    plain, chosen = read_types(types.path)
    settings = settings.model_copy(update={"quantization": plain})
    return _better(state.after(types), _calibrated(job, settings, say, chosen), say)


def _calibrated(
    job: Job, settings: Gptq, say: Say, mixed: Mapping[str, str] | None = None
) -> Artifact:
    """The job's checkpoint, rounded by calibration; into the `mixed` types where there are such."""
    from toolchain.compress.gptq import stage as gptq

    export = job.recipe.export
    config = gptq.Config(
        text=text_input(job, job.texts.calibration),
        settings=settings,
        tensor_types=export.tensor_types if mixed is None else dict(mixed),
        pure=export.pure,
        layers_only=job.backend != "gguf",
        mixed=mixed is not None,
        trust_remote_code=job.trust_remote_code,
    )
    return run_stage(gptq, job.source, config, job.workspace, say)


def _finetune(state: State, say: Say) -> State:
    from toolchain.train import finetune

    job = state.job
    assert state.data is not None  # a recipe that trains names its data
    config = finetune.Config(
        data=Input.of_artifact(state.data),
        settings=job.recipe.finetune,
        trust_remote_code=job.trust_remote_code,
    )
    made = run_stage(finetune, job.source, config, job.workspace, say)
    if made.format == job.source.format:
        return state.after(made, job=_on(job, made))
    return state.after(made, adapter=made)


def _distill(state: State, say: Say) -> State:
    from toolchain.compress.distill import stage as distill

    job = state.job
    assert state.data is not None  # a recipe that trains names its data
    settings, export = job.recipe.distill, job.recipe.export
    # A student that is named learns from the chain's model; else the model learns from what it was.
    named = settings.student is not None
    teacher = job.teacher or (job.source if named else job.base)
    data = Input.of_artifact(state.data)
    state, student = _student(state, teacher, say)
    state, cache = _cache(state, teacher, student, data, say)
    # A model does not teach itself: the cache that is named is another's.
    unknown = job.teacher_cache is not None and teacher.digest == student.digest
    blocks = {
        "tensor_types": export.tensor_types,
        "pure": export.pure,
        "layers_only": job.backend != "gguf",
    } if settings.exact else {}  # fmt: skip
    config = distill.Config(
        data=data,
        settings=settings,
        teacher=None if unknown else Input.of_artifact(teacher),
        cache=cache,
        **blocks,
        trust_remote_code=job.trust_remote_code,
    )
    made = run_stage(distill, student, config, job.workspace, say)
    if settings.exact:
        return _better(state, made, say)
    if made.format == student.format:
        return state.after(made, job=_on(job, made))
    return state.after(made, job=_on(job, student), adapter=made)


def _better(state: State, made: Artifact, say: Say, mix: Mix | None = None) -> State:
    """Go on with what was made, or with the model as it was where plain quantization of that loses
    less on any text. `mix` is how `made` is quantized where it has no blocks of its own."""
    from toolchain.evaluate import exact_quality
    from toolchain.export.gguf.export import importance_matrix

    job, wanted = state.job, state.job.recipe.evaluate
    config = exact_quality.Config(
        base=Input.of_artifact(job.source),
        imatrix=Input.of_artifact(importance_matrix(job, job.source, say)),
        scaled=None
        if mix is None
        else exact_quality.Scaled(
            mix=mix, imatrix=Input.of_artifact(importance_matrix(job, made, say))
        ),
        texts=_near_and_far(job),
        max_tokens=wanted.max_tokens,
        context_tokens=wanted.context_tokens,
        trust_remote_code=job.trust_remote_code,
    )
    measured = run_stage(exact_quality, made, config, job.workspace, say)
    for line in exact_quality.told(measured):
        say(line)
    if measured.measurements["kept"] == exact_quality.EXACT:
        before = job.source if mix is None else job.unquantized
        job = dataclasses.replace(_on(job, made), unquantized=before)
    return state.after(made).after(measured, job=job)


def _near_and_far(job: Job) -> tuple[object, ...]:
    """The held-out text of the kinds learned from, and the project's own where that is another."""
    from toolchain.data.text import default_text
    from toolchain.evaluate.exact_quality import FAR, NEAR, Text

    sources = {NEAR: job.texts.evaluation, FAR: default_text("evaluation")}
    if sources[FAR].digest == sources[NEAR].digest:
        del sources[FAR]
    return tuple(
        Text.model_validate({"name": source.name, "kind": kind, "file": text_input(job, source)})
        for kind, source in sources.items()
    )


def _student(state: State, teacher: Artifact, say: Say) -> tuple[State, Artifact]:
    """Who learns: the checkpoint that is named, one cut out of the teacher, the chain's, or that
    rounded by calibration."""
    from toolchain.compress.distill.student import stage as student

    job, sizes = state.job, state.job.recipe.distill.fresh
    if job.recipe.distill.exact_start == "gptq":
        wanted = {"quantization": job.recipe.distill.exact}
        made = _calibrated(job, job.recipe.gptq.model_copy(update=wanted), say)
        return state.after(made), made
    if sizes is None:
        return state, job.student or job.source
    config = student.Config(
        text=text_input(job, job.texts.calibration),
        settings=sizes,
        trust_remote_code=job.trust_remote_code,
    )
    made = run_stage(student, teacher, config, job.workspace, say)
    return state.after(made), made


def _cache(
    state: State, teacher: Artifact, student: Artifact, data: Input, say: Say
) -> tuple[State, Input | None]:
    """What the teacher has said, where the recipe names that or has it written."""
    from toolchain.compress.distill.cache import stage as cache
    from toolchain.compress.distill.cache.settings import TeacherCache

    job, wanted = state.job, state.job.recipe.distill
    if not wanted.cache:
        return state, job.teacher_cache
    config = cache.Config(
        data=data,
        student=Input.of_artifact(student),
        settings=TeacherCache.of_distillation(wanted),
        trust_remote_code=job.trust_remote_code,
    )
    made = run_stage(cache, teacher, config, job.workspace, say)
    return state.after(made), Input.of_artifact(made)


def _merge(state: State, say: Say) -> State:
    from toolchain.compress import merge

    job, wanted = state.job, state.job.recipe.merge
    folder = state.adapter.path if state.adapter else wanted.adapter
    assert folder is not None  # the recipe was checked
    if wanted.separate:
        return _kept_apart(state, folder)
    config = merge.Config(
        adapter=merge.adapter_input(folder),
        force=wanted.force,
        dtype=wanted.dtype,
        verify=wanted.verify,
        trust_remote_code=job.trust_remote_code,
    )
    made = run_stage(merge, job.source, config, job.workspace, say)
    return state.after(made, job=_on(job, made), adapter=None)


def _kept_apart(state: State, folder: Path) -> State:
    """The adapter goes into the bundle as it is; whatever is refused is refused here."""
    from toolchain.compress.base_record import check_base
    from toolchain.export.gguf.convert_adapter import adapter_artifact

    job = state.job
    adapter, found = adapter_artifact(folder)
    check_base(found.record, found.settings.base_model, job.source, force=job.recipe.merge.force)
    held = dataclasses.replace(job, adapter=adapter)
    return dataclasses.replace(state, job=held, adapter=adapter)


def _evaluate(state: State, say: Say) -> State:
    from toolchain.evaluate import measure
    from toolchain.evaluate.guessing import guessing_note

    job, wanted = state.job, state.job.recipe.evaluate
    config = measure.Config(
        base=Input.of_artifact(job.source) if state.adapter else None,
        labels=job.backend == "onnx-encoder",
        text=text_input(job, job.texts.evaluation),
        text_name=job.texts.evaluation.name,
        tasks=_tasks(job),
        metrics=wanted.metrics,
        max_tokens=wanted.max_tokens,
        context_tokens=wanted.context_tokens,
        task_examples=wanted.task_examples,
        trust_remote_code=job.trust_remote_code,
    )
    made = run_stage(measure, state.adapter or job.source, config, job.workspace, say)
    if not any(step.format == measure.FORMAT for step in state.steps):
        found = made.measurements
        vocab_size = (found["text"] or {}).get("vocab_size")
        if note := guessing_note(found["perplexity"], vocab_size, config.text_name):
            say(f"note: {note}")
    return state.after(made)


_STEPS: dict[str, Callable[[State, Say], State]] = {
    "prune": _prune,
    "prune-vocab": _prune_vocab,
    "sparsify": _sparsify,
    "awq": _awq,
    "gptq": _gptq,
    "finetune": _finetune,
    "distill": _distill,
    "merge": _merge,
    "evaluate": _evaluate,
}


def _tasks(job: Job) -> tuple[object, ...]:
    """The build's task, and the checkpoint's own where the build has another: what was learned, and
    whether the old is still known."""
    from toolchain.data.text import COMPANION_FOLDER
    from toolchain.evaluate.measure import Task

    own = job.base.path / COMPANION_FOLDER / "task.jsonl"
    found = [] if job.texts.task is None else [Task(name=DATA_TASK, rows=job.texts.task)]
    if own.is_file():
        rows = Input.of_file(own)
        if found and found[0].rows.digest == rows.digest:
            found = []
        found.append(Task(name=COMPANION_TASK, rows=rows))
    return tuple(found)


def _on(job: Job, made: Artifact) -> Job:
    """The job with another checkpoint to go on with."""
    from toolchain.checkpoint.inspect import inspect

    info = dataclasses.replace(inspect(made.path), name=job.info.name)
    return dataclasses.replace(job, source=made, info=info)
