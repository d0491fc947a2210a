"""What a build works on, settled before any work: target, recipe, checkpoint, plan, texts, room.

Everything that can be refused without work is refused here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.files import require_free_bytes
from targets.quantization import MIXED
from toolchain.pipeline import Workspace
from toolchain.plan import AUTO
from toolchain.plan_report import quality_budget

if TYPE_CHECKING:
    from targets.schema import Target
    from toolchain.artifact import Artifact
    from toolchain.backend import Backend
    from toolchain.checkpoint.info import CheckpointInfo
    from toolchain.data.text import TextSource
    from toolchain.plan import ModelPlan
    from toolchain.recipe import Recipe
    from toolchain.stage import Input

_GB = 1e9
# The interpreter, torch and the activations.
_PROCESS_BYTES = 1_000_000_000
_MAX_LOGITS_BYTES = 1_000_000_000


@dataclass(frozen=True)
class BuildRequest:
    """What the user asked for; names as on the command line. `data` takes the place of the recipe's
    data files."""

    target: str
    model: str
    recipe: str | None = None
    data: tuple[Path, ...] = ()
    quantization: str | None = None
    out: Path = Path("build")
    allow_pickle: bool = False
    trust_remote_code: bool = False


@dataclass(frozen=True)
class Texts:
    """What a model is calibrated and measured on; `task` may be None. `data` is the folder of
    prepared splits that they come from, where there is one."""

    calibration: TextSource
    evaluation: TextSource
    task: Input | None
    data: Path | None = None


@dataclass(frozen=True)
class Job:
    """A build, settled. `quantization` is a type's or variant's name, or `auto`.

    `base` is the checkpoint that the user gave; `source` and `info` are those of the checkpoint
    that is exported: the same until the recipe's chain has changed it. `data` are the recipe's data
    files, `texts` those of the checkpoint until the chain has prepared the data's own. `adapter` is
    one that stays separate from `source` in the bundle. `teacher` and `student` are the checkpoints
    that the recipe names for distillation, `teacher_cache` the cache. `unquantized` is the
    checkpoint that `source`, whose weights are blocks, stands for: what the export loses
    is measured against it.
    """

    name: str
    target: Target
    recipe: Recipe
    backend: Backend
    quantization: str
    base: Artifact
    source: Artifact
    info: CheckpointInfo
    workspace: Workspace
    texts: Texts
    data: tuple[Input, ...]
    trust_remote_code: bool
    adapter: Artifact | None = None
    teacher: Artifact | None = None
    student: Artifact | None = None
    unquantized: Artifact | None = None
    teacher_cache: Input | None = None

    @property
    def bundle(self) -> Path:
        """Where the bundle lies, or will lie."""
        return self.workspace.root / self.target.name

    @property
    def budget(self) -> dict[str, float]:
        """The limits by name: the recipe's where it sets them, else the target's."""
        return quality_budget(self.recipe, self.target, self.backend)


def settle(request: BuildRequest) -> Job:
    """Read and check everything a build needs. Raises `UserError`; writes only digest caches."""
    from toolchain.recipe import load_recipe

    return settle_recipe(request, load_recipe(request.recipe, request.data))


def settle_recipe(request: BuildRequest, recipe: Recipe) -> Job:
    """As `settle`, for a recipe that is in memory: its paths are absolute."""
    from targets.registry import load_target
    from toolchain.backend import choose_backend
    from toolchain.check.parts import require_parts
    from toolchain.checkpoint.intake import checkpoint_for_build
    from toolchain.checkpoint.locate import locate
    from toolchain.recipe import built_name

    target = run_by(recipe, load_target(request.target))
    wanted = request.quantization or recipe.export.quantization
    trust = {"allow_pickle": request.allow_pickle, "trust_remote_code": request.trust_remote_code}
    folder = locate(request.model, **trust)
    name = built_name(request.model, recipe)
    workspace = Workspace(Path(request.out).absolute() / name)
    source, info = checkpoint_for_build(folder, workspace, **trust)
    backend, quantization = choose_backend(recipe.export.format, wanted, target, info)
    if recipe.merge.separate and "merge" in recipe.stages and backend != "gguf":
        raise UserError(
            f"only GGUF keeps an adapter separate from its base, not {backend}",
            "take `separate: true` out of the recipe's merge",
        )
    quantization = _block_type(recipe, backend, quantization)
    _require_free_types(recipe, quantization)
    if recipe.prune.per_layer and "prune" in recipe.stages and backend != "gguf":
        raise UserError(
            f"widths per layer are for GGUF alone, not {backend}",
            "take `per_layer: true` out of the recipe's prune",
        )
    require_parts(info, recipe, backend)
    texts = settle_texts(folder, recipe, backend)
    return Job(
        name=name,
        target=target,
        recipe=recipe,
        backend=backend,
        quantization=quantization,
        base=source,
        source=source,
        info=info,
        workspace=workspace,
        texts=texts,
        data=_data(recipe, folder, texts, workspace),
        trust_remote_code=request.trust_remote_code,
        **_distillation(recipe, workspace, trust),
    )


def run_by(recipe: Recipe, target: Target) -> Target:
    """The target with what the recipe's section `run` says in place of the profile's own. Raises
    `UserError` for what the device cannot do."""
    from common.strict import parse
    from targets.schema import Target

    changes = recipe.run.over_target
    if not changes:
        return target
    origin = f"target {target.name} with run of recipe '{recipe.name}'"
    return parse(Target, {**target.model_dump(), **changes}, origin)


def _block_type(recipe: Recipe, backend: Backend, quantization: str) -> str:
    """The type to export: that of the blocks which the recipe makes, if it makes any. Raises
    `UserError` when another was asked for."""
    if recipe.blocks is None:
        return quantization
    from runtimes.quantizer import canonical_quantization
    from targets.quantization import ONNX_OF_BLOCKS

    key, wanted = recipe.blocks
    if wanted.lower() == MIXED and key.startswith("gptq"):
        made, own = MIXED, MIXED if backend == "gguf" else None
    else:
        made = canonical_quantization(wanted)
        own = made if backend == "gguf" else ONNX_OF_BLOCKS.get(made) if backend == "onnx" else None
    if own is not None and quantization in (AUTO, own):
        return own
    same = ", ".join(f"{name} is {kind}" for kind, name in ONNX_OF_BLOCKS.items())
    raise UserError(
        f"{key} makes the blocks of {made}, but the export makes {quantization}"
        + ("" if backend == "gguf" else f" ({backend})"),
        f"set export.quantization (or quantization=) to {made}, or {key} to the type "
        f"that is exported (of ONNX: {same})",
    )


def _require_free_types(recipe: Recipe, quantization: str) -> None:
    """Raise a `UserError` where the recipe says types that `mixed` is to choose."""
    export = recipe.export
    named = [name for name in ("tensor_types", "pure") if getattr(export, name)]
    if named and (quantization == MIXED or (quantization == AUTO and recipe.mixed.auto)):
        raise UserError(
            f"mixed types choose the type of every tensor, and export.{named[0]} says types too",
            f"leave export.{named[0]} out, or take another quantization",
        )


def _distillation(recipe: Recipe, workspace: Workspace, trust: dict[str, bool]) -> dict[str, Any]:
    """The checkpoints and the cache that the recipe's distillation names."""
    from toolchain.checkpoint.intake import checkpoint_for_build
    from toolchain.checkpoint.locate import locate
    from toolchain.compress.distill.cache.facts import cache_input

    if "distill" not in recipe.stages:
        return {}
    named = {"teacher": recipe.distill.teacher, "student": recipe.distill.named_student}
    found: dict[str, Any] = {
        role: checkpoint_for_build(locate(model, **trust), workspace, **trust)[0]
        for role, model in named.items()
        if model is not None
    }
    cache = recipe.distill.teacher_cache
    return found if cache is None else {**found, "teacher_cache": cache_input(cache)}


def _data(recipe: Recipe, folder: Path, texts: Texts, workspace: Workspace) -> tuple[Input, ...]:
    """The recipe's training data, or the model's own where the recipe says so. Blocks that are
    trained on the model's own rows see the project's text too, or they would lose other kinds."""
    from toolchain.data.prepare.stage import data_input
    from toolchain.data.text import COMPANION_FOLDER, as_rows, default_text

    files = recipe.data.files
    if not files and recipe.data.own and recipe.trains:
        own = folder / COMPANION_FOLDER / "train.jsonl"
        sources = [] if own.is_file() else [texts.calibration]
        if recipe.trains_blocks and texts.calibration.origin != "default":
            sources.append(default_text("calibration"))
        files = (own,) if own.is_file() else ()
        for source in sources:
            rows = workspace.stages / f"rows-{source.digest[:16]}.jsonl"
            as_rows(source, rows)
            files = (*files, rows)
    return tuple(data_input(path) for path in files)


def plan_of(job: Job) -> ModelPlan:
    """The plan of the job. Raises `UserError` when no type fits the target."""
    found = plan_for(job.info, job.target, job.recipe, job.backend, job.quantization)
    if not found.order:
        tried = [f"{c.size.quantization}: {c.reason}" for c in found.plan.candidates]
        raise UserError(
            f"{job.name} does not fit {job.target.name} in any type tried",
            "take a smaller model, a smaller type (quantization=…), or a larger target",
            details=tried,
        )
    return found


def plan_for(
    info: CheckpointInfo, target: Target, recipe: Recipe, backend: Backend, quantization: str
) -> ModelPlan:
    """The plan of a checkpoint for a backend."""
    from toolchain.backend import variants_of
    from toolchain.plan import plan_model, plan_onnx

    if backend != "gguf":
        encoder = backend == "onnx-encoder"
        named = (quantization,) if quantization != AUTO else variants_of(target, encoder=encoder)
        return plan_onnx(info, target, named, encoder=encoder)
    export = recipe.export
    return plan_model(
        info,
        target,
        quantization,
        with_imatrix=export.imatrix,
        tensor_types=export.tensor_types,
        pure=export.pure,
        mixed=recipe.mixed,
    )


def as_exported(job: Job) -> Job:
    """The job on the checkpoint that will shrink to what is exported: the student that the recipe
    names or has made, else the one that was given. Raises `UserError` when no such student can be
    made."""
    from toolchain.checkpoint.inspect import inspect
    from toolchain.compress.distill.ahead import fresh_info

    if job.student is None:
        teacher = inspect(job.teacher.path) if job.teacher else job.info
        return dataclasses.replace(job, info=fresh_info(job.recipe, teacher) or job.info)
    return dataclasses.replace(job, source=job.student, info=inspect(job.student.path))


def require_room(job: Job, found: ModelPlan) -> None:
    """Raise `UserError` when disk or memory is too small for the build, before work begins."""
    from toolchain.export.gguf.convert import chosen_intermediate
    from toolchain.hf import free_memory_bytes, torch_memory_bytes

    kind = chosen_intermediate(job.recipe.export.intermediate, job.info.parameters)
    # ONNX is float32, and its exporter writes it twice for a moment.
    value_bytes = (4 if kind == "f32" else 2) if job.backend == "gguf" else 8
    unquantized = job.info.parameters * value_bytes
    if job.recipe.blocks:  # those of their values, in float32, as well
        unquantized += job.info.parameters * 4
    candidates = [c.size.weights_bytes for c in found.plan.candidates if c.fits]
    logits = min(job.recipe.evaluate.max_tokens * (job.info.vocab_size or 0) * 4, _MAX_LOGITS_BYTES)
    # Unquantized file, every candidate once, the bundle's copy, two sets of logits.
    needed = unquantized + sum(candidates) + max(candidates) + 2 * logits
    there = sum(path.stat().st_size for path in job.workspace.root.rglob("*") if path.is_file())
    require_free_bytes(job.workspace.root, needed - there, f"building {job.name}")
    memory = min(torch_memory_bytes(job.info)) + _PROCESS_BYTES
    available = free_memory_bytes()
    if available < memory:
        raise UserError(
            f"not enough memory to prove {job.name} against torch: about "
            f"{memory / _GB:.1f} GB needed, {available / _GB:.1f} GB available",
            "close other programs, or build on a machine with more memory",
        )


def settle_texts(
    checkpoint: Path, recipe: Recipe, backend: Backend, data: Path | None = None
) -> Texts:
    """The recipe's texts, else those of the prepared `data`, else the checkpoint's own, else the
    project's. Raises `UserError` when calibration and evaluation text share a document."""
    from toolchain.data.prepare import stage as prepare
    from toolchain.data.text import (
        COMPANION_FOLDER,
        calibration_text,
        evaluation_text,
        require_held_out,
        task_examples,
    )
    from toolchain.stage import Input

    def given(path: Path | None, name: str) -> Path | None:
        prepared = data / name if data else None
        return path or (prepared if prepared and prepared.is_file() else None)

    calibrate_on = given(recipe.export.calibration, prepare.CALIBRATION)
    calibration = calibration_text(checkpoint, calibrate_on)
    evaluation = evaluation_text(checkpoint, given(recipe.evaluate.text, prepare.EVALUATION))
    require_held_out(calibration, evaluation)
    wanted = given(recipe.evaluate.task, prepare.TASK)
    path = wanted or checkpoint / COMPANION_FOLDER / "task.jsonl"
    if backend == "onnx-encoder":
        task = Input.of_file(path) if path.is_file() else None
    else:
        task = Input.of_file(path) if task_examples(checkpoint, wanted) else None
    return Texts(calibration, evaluation, task, data)
