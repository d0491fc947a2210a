"""Stage `distill`: a checkpoint is trained towards a teacher's distributions.

hf (the student) → hf (all weights) or adapter (LoRA). It trains as `finetune` does: rows,
processes, checkpoints, resume and result are the same, only the loss is another.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import field_validator

from common.errors import UserError
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.compress.distill.settings import Distill
from toolchain.stage import Input
from toolchain.train import finetune
from toolchain.train.job import Distillation
from toolchain.train.settings import Finetune

NAME = "distill"
VERSION = 1
TOOLS = finetune.TOOLS
# Bytes of a weight of the teacher; quantized ones with their scales.
_WEIGHT_BYTES = {"none": 4.0, "int8": 1.1, "nf4": 0.6}


class Config(finetune.Config):
    """`teacher` is a checkpoint, named by its digest."""

    teacher: Input
    settings: Distill = Distill()

    @field_validator("settings")
    @classmethod
    def _without_places(cls, settings: Distill) -> Distill:
        """Who teaches whom is said by digests."""
        return settings.model_copy(update={"teacher": None, "student": None})

    @property
    def training(self) -> Finetune:
        """The settings of the training itself."""
        return self.settings.training


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Distil. Raises `UserError`; checkpoints stay beside `out_dir` then."""
    return finetune.train(source, config, out_dir, purpose(source, config))


def purpose(source: Artifact, config: Config) -> finetune.Purpose:
    """What the training is for. Raises `UserError` when the teacher cannot teach the student."""
    from toolchain.compress.distill.pair import require_pair
    from toolchain.train.encoded import data_kind
    from toolchain.train.examples import labels_of

    kind = data_kind(config.data.path)
    labels = labels_of(config.data.path / "train.jsonl") if kind == "classification" else ()
    teacher = config.teacher.path
    trust = config.trust_remote_code
    if source.digest == config.teacher.digest:
        raise UserError(
            "teacher and student are the same checkpoint, so there is nothing to learn",
            "name a teacher or a student (distill.teacher, distill.student), or put a stage that "
            "changes the model (prune) before distill",
        )
    require_pair(source.path, teacher, kind, labels, config.settings, trust_remote_code=trust)
    parameters = inspect(teacher).parameters
    return finetune.Purpose(
        name=NAME,
        version=VERSION,
        tools=TOOLS,
        parents=(config.teacher.digest,),
        distillation=Distillation(settings=config.settings, teacher=teacher.absolute()),
        teacher_bytes=round(parameters * _WEIGHT_BYTES[config.settings.teacher_quantization]),
        figures={
            "teacher_parameters": parameters,
            "student_parameters": inspect(source.path).parameters,
        },
    )
