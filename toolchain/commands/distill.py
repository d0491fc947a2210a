"""`edgeforge distill`: a smaller or compressed model learns from a larger one."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from common.scratch import ScratchFolder
from toolchain.checkpoint_verbs import add_data, add_out, opened, prepared_data, print_json
from toolchain.options import add_options

if TYPE_CHECKING:
    from toolchain.artifact import Artifact
    from toolchain.compress.distill.settings import Distill
    from toolchain.compress.distill.stage import Config
    from toolchain.compress.distill.student.settings import Student
    from toolchain.pipeline import Workspace
    from toolchain.stage import Input

ENDING = "distilled"
HELP = "train a small or compressed model towards a larger one's answers"
EXAMPLES = (
    "edgeforge distill --model PRUNED --teacher PATH_OR_HUB_ID --data texts.jsonl",
    "edgeforge distill --model TEACHER --student PATH --data chats.jsonl --preset classic-t2",
    "edgeforge distill --model PATH --teacher PATH --data data/ --loss reverse_kl --on-policy 0.5",
    "edgeforge distill --model PATH --data texts.jsonl --exact Q4_0 --packing",
    "edgeforge distill --model TEACHER --student ratio=0.25 --data texts.jsonl --cache",
    "edgeforge distill --model STUDENT --teacher-cache cache/ --data data/",
    "edgeforge distill --model MINILM --teacher BERT --data reviews.csv --epochs 3",
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this verb."""
    from toolchain.compress.distill.settings import Distill
    from toolchain.settings_options import add_settings

    add_options(parser, "model")
    add_data(parser)
    add_out(parser, ENDING)
    add_settings(parser, Distill, "distillation")
    add_options(parser, "json", "dry_run", "allow_pickle", "trust_remote_code")


def run(args: argparse.Namespace) -> int:
    """Distil, or say what would be. Raises `UserError` for all that a user can mend."""
    from toolchain.compress.distill import stage
    from toolchain.compress.distill.settings import Distill
    from toolchain.pipeline import run_stage, say_on_stderr
    from toolchain.settings_options import settings_of
    from toolchain.stage import Input

    settings = settings_of(args, Distill)
    with opened(args, ENDING) as (_, model, workspace):
        student, teacher = _pair(args, model, settings, workspace)
        data = prepared_data(args, student, workspace)
        if settings.fresh is not None:
            student = _fresh(args, student, data, settings.fresh, workspace)
        config = stage.Config(
            data=data,
            teacher=Input.of_artifact(teacher) if teacher else None,
            cache=_cache(args, student, teacher, data, settings, workspace),
            settings=settings,
            trust_remote_code=args.trust_remote_code,
        )
        if args.dry_run:
            return _print_outline(args, student, config)
        made = run_stage(stage, student, config, workspace, say_on_stderr)
    _print_result(args, made)
    return 0


def _pair(
    args: argparse.Namespace, model: Artifact, settings: Distill, workspace: Workspace
) -> tuple[Artifact, Artifact | None]:
    """Student and teacher: the model is the one that has no option of its own; with `exact` it
    learns from itself, and a fresh student is the teacher until it is cut out. A cache may stand
    for a teacher that is not named."""
    from common.errors import UserError
    from toolchain.checkpoint.intake import checkpoint_for_build
    from toolchain.checkpoint.locate import locate

    trust = {"allow_pickle": args.allow_pickle, "trust_remote_code": args.trust_remote_code}
    teacher, student = (
        checkpoint_for_build(locate(name, **trust), workspace, **trust)[0] if name else None
        for name in (settings.teacher, settings.named_student)
    )
    if settings.fresh is not None:
        return teacher or model, teacher or model
    if teacher is None and student is None and not settings.exact:
        if settings.teacher_cache is not None:
            return model, None
        raise UserError(
            "nobody teaches: neither a teacher nor a student is named",
            "give --teacher PATH (the model learns from it) or --student PATH (the model teaches)",
        )
    return student or model, teacher or model


def _fresh(
    args: argparse.Namespace, teacher: Artifact, data: Input, sizes: Student, workspace: Workspace
) -> Artifact:
    """A student cut out of the teacher by what matters to it in the data."""
    from toolchain.chain import text_file
    from toolchain.compress.distill.student import stage
    from toolchain.data.prepare.stage import CALIBRATION
    from toolchain.data.text import calibration_text
    from toolchain.pipeline import run_stage, say_on_stderr

    config = stage.Config(
        text=text_file(calibration_text(teacher.path, data.path / CALIBRATION), workspace),
        settings=sizes,
        trust_remote_code=args.trust_remote_code,
    )
    return run_stage(stage, teacher, config, workspace, say_on_stderr)


def _cache(
    args: argparse.Namespace,
    student: Artifact,
    teacher: Artifact | None,
    data: Input,
    settings: Distill,
    workspace: Workspace,
) -> Input | None:
    """The cache that is named, or one written now."""
    from toolchain.compress.distill.cache import stage
    from toolchain.compress.distill.cache.facts import cache_input
    from toolchain.compress.distill.cache.settings import TeacherCache
    from toolchain.pipeline import run_stage, say_on_stderr
    from toolchain.stage import Input

    if settings.teacher_cache is not None:
        return cache_input(settings.teacher_cache)
    if not settings.cache or teacher is None or args.dry_run:
        return None
    config = stage.Config(
        data=data,
        student=Input.of_artifact(student),
        settings=TeacherCache.of_distillation(settings),
        trust_remote_code=args.trust_remote_code,
    )
    return Input.of_artifact(run_stage(stage, teacher, config, workspace, say_on_stderr))


def _print_outline(args: argparse.Namespace, student: Artifact, config: Config) -> int:
    from toolchain.compress.distill.stage import purpose
    from toolchain.train.outline import outline

    with ScratchFolder("dry-run") as folder:
        plan = outline(
            student,
            config.data.path,
            config.training,
            Path(folder),
            taught=True,
            teacher_bytes=purpose(student, config).teacher_bytes,
            trust_remote_code=config.trust_remote_code,
        )
    if args.json:
        print(json.dumps(plan.as_json(), indent=2, ensure_ascii=False))
        return 0
    print("\n".join(plan.lines(config.training)))
    print("dry run: nothing was written")
    return 0


def _print_result(args: argparse.Namespace, made: Artifact) -> None:
    facts = made.measurements
    if args.json:
        print_json(made)
        return
    print(f"distilled: {made.path} ({made.format})")
    print(
        f"  {facts['student_parameters'] / 1e6:.2f} M parameters learned from "
        f"{facts['teacher_parameters'] / 1e6:.2f} M in {facts['steps']} steps, training loss "
        f"{facts['first_train_loss']:.4f} → {facts['final_train_loss']:.4f}"
    )
    if facts["validation_loss"] is not None:
        print(f"  validation loss {facts['validation_loss']:.4f} at step {facts['kept_step']}")
    print("next: measure it: edgeforge evaluate RESULT --against TEACHER")
