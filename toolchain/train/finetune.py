"""Stage `finetune`: a checkpoint and prepared data become an adapter, or a trained checkpoint.

hf → adapter (LoRA) or hf (all weights). Training runs in a process of its own and leaves
checkpoints beside the result; the same inputs go on from the newest one after a kill, and give what
an uninterrupted run gives.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from pydantic import model_validator

from common.errors import UserError
from common.files import read_json, require_free_bytes, sha256_file, sha256_json
from common.folders import remove_folder
from runtimes.threads import fixed_threads
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.intake import FORMAT, measurements, require_checkpoint
from toolchain.compress.base_record import note_place, record_base
from toolchain.compress.sparse.record import keep_zeros
from toolchain.data.prepare.split import UNLABELLED_FILE
from toolchain.pipeline import STAGES_FOLDER, say_on_stderr
from toolchain.stage import Input, StageConfig, resume_folder
from toolchain.train import checkpoints, result
from toolchain.train.job import JOB_FILE, Distillation, TrainJob, read_job
from toolchain.train.launch import run_workers
from toolchain.train.outline import Outline, outline
from toolchain.train.settings import Finetune
from toolchain.train.worker import DONE

NAME = "finetune"
VERSION = 1
TOOLS = ("accelerate", "bitsandbytes", "peft", "torch", "transformers")
ADAPTER_FORMAT = "adapter"
BOARD_FOLDER = "tensorboard"
_SPLITS = ("train.jsonl", "validation.jsonl", "test.jsonl", UNLABELLED_FILE, "report.json")
_RSS_UNIT_BYTES = 1 if sys.platform == "darwin" else 1024
_GB = 1e9


class Config(StageConfig):
    """`data` is a prepared folder. `accelerate` is the file that `settings.accelerate_config`
    names, by its content: a path in `settings` becomes one when the config is made."""

    data: Input
    settings: Finetune = Finetune()
    accelerate: Input | None = None
    trust_remote_code: bool = False

    @model_validator(mode="before")
    @classmethod
    def _by_content(cls, values: Any) -> Any:
        settings = values.get("settings") if isinstance(values, Mapping) else None
        if isinstance(settings, Mapping):
            settings = type(cls.model_fields["settings"].default).model_validate(settings)
        if not isinstance(settings, Finetune) or settings.accelerate_config is None:
            return values
        path = settings.accelerate_config.expanduser().absolute()
        if not path.is_file():
            raise UserError(f"accelerate_config {path} does not exist", "check the path")
        settings = settings.model_copy(update={"accelerate_config": None})
        return {**values, "settings": settings, "accelerate": Input.of_file(path)}

    @property
    def training(self) -> Finetune:
        """The settings of the training itself."""
        return self.settings


Ready = Callable[[TrainJob], None]


@dataclass(frozen=True)
class Purpose:
    """What a stage trains for. `parents` are its inputs beside checkpoint and data; `teacher_bytes`
    is what a process holds of a teacher; `figures` go to the result's measurements. `ready` is
    called with the job once its encoded rows lie in its folder: it may refuse or add to them."""

    name: str = NAME
    version: int = VERSION
    tools: tuple[str, ...] = TOOLS
    parents: tuple[str, ...] = ()
    distillation: Distillation | None = None
    teacher_bytes: int = 0
    figures: Mapping[str, Any] = field(default_factory=dict)
    ready: Ready | None = None


def data_input(folder: Path) -> Input:
    """A prepared folder as an input, named by the content of its splits. Raises `UserError` when it
    is none."""
    folder = folder.expanduser().absolute()
    if not (folder / "train.jsonl").is_file():
        raise UserError(
            f"{folder} has no train.jsonl",
            "prepare the data: edgeforge data prepare FILE --out DIR",
        )
    names = [name for name in _SPLITS if (folder / name).is_file()]
    return Input(digest=sha256_json({n: sha256_file(folder / n) for n in names}), path=folder)


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Train. Raises `UserError`; checkpoints stay beside `out_dir` then."""
    return train(source, config, out_dir, Purpose())


def train(source: Artifact, config: Config, out_dir: Path, purpose: Purpose) -> Artifact:
    """Train for a purpose: what every stage does that trains. Raises `UserError`."""
    start = time.perf_counter()
    settings = config.training
    job, plan = settle(source, config, out_dir, purpose=purpose)
    accelerate = config.accelerate.path if config.accelerate else None
    run_workers(job.folder / JOB_FILE, job, accelerate)
    last = checkpoints.newest(job.checkpoints)
    if last is None or not (job.folder / DONE).is_file():
        raise UserError(f"training left no checkpoint in {job.checkpoints}", "run it again")
    history = checkpoints.history(last)
    best = result.best_step(history)
    kept = checkpoints.step_of(last)
    if best is not None and settings.keep == "best":
        kept = best
    try:
        _write(source, config, job, job.checkpoints / f"checkpoint-{kept}", out_dir)
        result.write_log(history, out_dir)
        result.write_curve(history, out_dir)
    except OSError as error:
        raise UserError(
            f"the result cannot be written to {out_dir}: {error.strerror or error}",
            "free some space; the same command takes the finished training up again",
        ) from None
    warnings = [*plan.warnings]
    if unlearned := result.unlearned(history):
        warnings.append(unlearned)
        say_on_stderr(f"warning: {unlearned}")
    full = settings.method == "full"
    made = artifacts.describe(
        out_dir,
        format=FORMAT if full else ADAPTER_FORMAT,
        stage=purpose.name,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.data.digest, *purpose.parents],
        versions={tool: version(tool) for tool in purpose.tools},
        measurements={
            **(measurements(inspect(out_dir)) if full else {}),
            **_figures(plan, history, kept),
            **purpose.figures,
            "warnings": warnings,
            "early_stopped": read_json(job.folder / DONE)["early_stopped"],
            "tensorboard": f"{BOARD_FOLDER}/{board_folder(out_dir).name}",
            "wall_sec": round(time.perf_counter() - start, 3),
            "peak_rss_bytes": _peak_rss_bytes(),
        },
    )
    if not full:
        note_place(out_dir, source)
    return made


def settle(
    source: Artifact,
    config: Config,
    out_dir: Path,
    say: Callable[[str], None] = say_on_stderr,
    purpose: Purpose | None = None,
) -> tuple[TrainJob, Outline]:
    """Check everything, say what will be trained, and leave rows and job in the resume folder.
    What a run with other inputs left there goes."""
    purpose = purpose or Purpose()
    require_checkpoint(source, purpose.name)
    folder, settings = resume_folder(out_dir), config.training
    key = sha256_json(
        {
            "version": purpose.version,
            "source": source.digest,
            "config": config.model_dump(mode="json"),
            "tools": {tool: version(tool) for tool in purpose.tools},
        }
    )
    before = _job_of(folder)
    if before is None or before.key != key:
        before = None
        remove_folder(folder)
    folder.mkdir(parents=True, exist_ok=True)
    trust = config.trust_remote_code
    plan = outline(
        source,
        config.data.path,
        settings,
        folder,
        taught=purpose.distillation is not None,
        teacher_bytes=purpose.teacher_bytes,
        trust_remote_code=trust,
    )
    for line in plan.lines(settings):
        say(line)
    job = TrainJob(
        key=key,
        kind=plan.data.kind,
        model=source.path.absolute(),
        folder=folder.absolute(),
        logs=board_folder(out_dir).absolute(),
        settings=settings,
        saves_per_epoch=settings.saves_per_epoch,
        max_tokens=plan.data.max_tokens,
        rows=plan.data.train.rows,
        tokens=plan.data.train.tokens,
        validation_rows=plan.data.validation.rows,
        labels=plan.data.labels,
        pad_token_id=plan.pad_token_id,
        threads=before.threads if before else _threads(settings),
        distillation=purpose.distillation,
        trust_remote_code=trust,
    )
    _require_disk(source, plan, job, folder)
    if purpose.ready is not None:
        purpose.ready(job)
    say(f"TensorBoard: tensorboard --logdir {job.logs}")
    job.write()
    return job, plan


def board_folder(out_dir: Path) -> Path:
    """Where TensorBoard's files lie: beside the finished stages, never in the result (they hold
    times)."""
    name = resume_folder(out_dir).name.removeprefix(".").removesuffix(".resume")
    place = out_dir.parent
    return (place.parent if place.name == STAGES_FOLDER else place) / BOARD_FOLDER / name


def _job_of(folder: Path) -> TrainJob | None:
    """The run that left its files there; None where it got not as far as its job, and its rows may
    be of other inputs."""
    if not (folder / JOB_FILE).is_file():
        return None
    try:
        return read_job(folder / JOB_FILE)
    except UserError:
        return None


def _threads(settings: Finetune) -> int:
    """Threads of one process: its share of the cores that torch would use."""
    import torch

    cores: int = fixed_threads() or torch.get_num_threads()
    return max(1, cores // settings.processes)


def _require_disk(source: Artifact, plan: Outline, job: TrainJob, folder: Path) -> None:
    """Room for three checkpoints (weights and two moments of what is trained) and the result."""
    full = job.settings.method == "full"
    checkpoint = plan.trainable * 4 * 3
    there = sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    whole = inspect(source.path).weight_bytes if full else plan.trainable * 4
    needed = 3 * checkpoint + whole - there
    require_free_bytes(folder, max(0, needed), "checkpoints and result of the training")


def _write(
    source: Artifact, config: Config, job: TrainJob, checkpoint: Path, out_dir: Path
) -> None:
    settings = config.training
    if settings.method == "full":
        trust = config.trust_remote_code
        taught = job.distillation
        result.write_checkpoint(
            checkpoint,
            source,
            job.kind,
            out_dir,
            exact=taught.exact if taught else None,
            start=taught.start if taught else None,
            trust_remote_code=trust,
        )
        keep_zeros(source.path, out_dir)
        return
    record = record_base(out_dir, source, "nf4" if settings.quantization == "nf4" else None)
    result.write_adapter(checkpoint, source, record.base_name, job.labels, out_dir)


def _figures(plan: Outline, history: result.History, kept: int) -> dict[str, Any]:
    """What the report shows of the training."""
    steps = [entry for entry in history if "loss" in entry]
    at_kept = next((e for e in history if "eval_loss" in e and e["step"] == kept), {})
    last = steps[-1]
    return {
        "kind": plan.data.kind,
        "trainable_parameters": plan.trainable,
        "total_parameters": plan.parameters,
        "trainable_share": round(plan.share, 6),
        "train_examples": plan.data.train.examples,
        "validation_examples": plan.data.validation.examples,
        "truncated_examples": plan.data.train.truncated,
        "steps": int(last["step"]),
        "planned_steps": plan.points.total_steps,
        "epochs": round(last["epoch"], 4),
        "tokens_seen": round(plan.data.train.tokens * last["epoch"]),
        "kept_step": kept,
        "best_step": result.best_step(history),
        "first_train_loss": steps[0]["loss"],
        "final_train_loss": last["loss"],
        "validation_loss": at_kept.get("eval_loss"),
        **{
            f"validation_{name}": at_kept[f"eval_{name}"]
            for name in ("loss_soft", "loss_hard")
            if f"eval_{name}" in at_kept
        },
        "validation_accuracy": at_kept.get("eval_accuracy"),
        "validation_macro_f1": at_kept.get("eval_macro_f1"),
    }


def _peak_rss_bytes() -> int:
    """Peak memory of the largest process that trained."""
    return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _RSS_UNIT_BYTES
