"""Stage `distill`: a checkpoint is trained towards a teacher's distributions.

hf (the student) → hf (all weights) or adapter (LoRA). It trains as `finetune` does: rows,
processes, checkpoints, resume and result are the same, only the loss is another.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field, field_validator

from common.errors import UserError
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.compress.distill.settings import Distill
from toolchain.compress.exact.settings import ExactPlan
from toolchain.pipeline import say_on_stderr
from toolchain.stage import Input
from toolchain.train import finetune
from toolchain.train.job import Distillation, Kind, TrainJob
from toolchain.train.settings import Finetune

NAME = "distill"
VERSION = 1
TOOLS = finetune.TOOLS
# Bytes of a weight of the teacher; quantized ones with their scales.
_FLOAT_BYTES = 4
_WEIGHT_BYTES = {"none": 4.0, "int8": 1.1, "nf4": 0.6}


class Config(finetune.Config):
    """`teacher` is a checkpoint, `cache` what one has said, named by their digests: one of them, or
    both where it is to be sure that they belong together. For `settings.exact`: `tensor_types` and
    `pure` are the export's; `layers_only` where embedding and head have no blocks of their own."""

    teacher: Input | None
    cache: Input | None = None
    settings: Distill = Distill()
    tensor_types: dict[str, str] = Field(default_factory=dict)
    pure: bool = False
    layers_only: bool = False

    @field_validator("settings")
    @classmethod
    def _without_places(cls, settings: Distill) -> Distill:
        """Who teaches whom is said by digests."""
        places = {"teacher": None, "student": None, "teacher_cache": None, "cache": False}
        return settings.model_copy(update=places)

    @property
    def training(self) -> Finetune:
        """The settings of the training itself."""
        return self.settings.training


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Distil. Raises `UserError`; checkpoints stay beside `out_dir` then."""
    return finetune.train(source, config, out_dir, purpose(source, config))


def purpose(source: Artifact, config: Config) -> finetune.Purpose:
    """What the training is for. Raises `UserError` when the teacher cannot teach the student."""
    from toolchain.compress.distill.pair import require_distinct, require_pair
    from toolchain.train.encoded import data_kind
    from toolchain.train.examples import labels_of

    if config.cache is not None:
        return _from_cache(source, config, config.cache)
    if config.teacher is None:
        raise UserError("nobody teaches: there is neither a teacher nor a cache", "name one")
    kind = data_kind(config.data.path)
    labels = labels_of(config.data.path / "train.jsonl") if kind == "classification" else ()
    if config.settings.exact is None:
        require_distinct(source.digest, config.teacher.digest)
    teacher, settings = config.teacher.path, config.settings
    trust = config.trust_remote_code
    require_pair(source.path, teacher, kind, labels, settings, trust_remote_code=trust)
    parameters = inspect(teacher).parameters
    held_bytes = round(parameters * _WEIGHT_BYTES[settings.teacher_quantization])
    exact = None
    if settings.exact is not None:
        from toolchain.compress.exact.plan import exact_plan

        exact = exact_plan(source, kind, config)
        if settings.exact_start == "gptq":
            _require_blocks(source, exact)
        # The values of the file, beside the float weights.
        held_bytes += inspect(source.path).parameters * _FLOAT_BYTES
    return finetune.Purpose(
        name=NAME,
        version=VERSION,
        tools=TOOLS,
        parents=(config.teacher.digest,),
        distillation=Distillation(
            settings=settings,
            teacher=teacher.absolute(),
            exact=exact,
            start=source.path.absolute() if settings.exact_start == "gptq" else None,
        ),
        teacher_bytes=held_bytes,
        figures={
            **_figures(source, parameters),
            **({"exact": exact.quantization} if exact else {}),
        },
        ready=_other_tokens(source, config, kind) if settings.universal else None,
    )


def _require_blocks(source: Artifact, plan: ExactPlan) -> None:
    """Raise `UserError` where the student has no blocks of these types to begin with."""
    from toolchain.compress.exact.sidecar import read_plan

    begun = read_plan(source.path)
    if begun is None or begun.types != plan.types:
        has = f"blocks of {begun.quantization}" if begun else "no blocks"
        raise UserError(
            f"distill.exact_start gptq begins with blocks of {plan.quantization}, and the student "
            f"has {has}",
            "let a recipe's stage distill make them, or leave exact_start out",
        )


def _from_cache(source: Artifact, config: Config, cache: Input) -> finetune.Purpose:
    """A training for which no teacher runs."""
    from toolchain.compress.distill.cache.check import require_fit
    from toolchain.compress.distill.cache.store import require_intact

    facts = require_intact(cache.path).facts
    teacher = config.teacher.digest if config.teacher else None

    def ready(job: TrainJob) -> None:
        require_fit(facts, job, teacher)

    return finetune.Purpose(
        name=NAME,
        version=VERSION,
        tools=TOOLS,
        parents=(facts.teacher, cache.digest),
        distillation=Distillation(
            settings=config.settings, teacher=None, cache=cache.path.absolute()
        ),
        figures={**_figures(source, facts.teacher_parameters), "cache_top_k": facts.top_k},
        ready=ready,
    )


def _other_tokens(source: Artifact, config: Config, kind: Kind) -> finetune.Ready:
    """Writes the teacher's rows beside the student's."""

    def ready(job: TrainJob) -> None:
        from toolchain.compress.distill.universal.rows import write_rows
        from toolchain.hf import load_tokenizer
        from toolchain.train.outline import max_tokens_of

        assert config.teacher is not None
        teacher = config.teacher.path
        trust = config.trust_remote_code
        own, other = (load_tokenizer(p, trust_remote_code=trust) for p in (source.path, teacher))
        # Tokens of another length: as many as the teacher can read.
        longest = max_tokens_of(teacher, other, Finetune())
        places, compared = write_rows(config.data.path, job.folder, kind, (own, other), longest)
        say_on_stderr(
            f"universal: {compared:,} of {places:,} places are compared ({compared / places:.1%})"
        )

    return ready


def _figures(source: Artifact, teacher_parameters: int) -> dict[str, int]:
    return {
        "teacher_parameters": teacher_parameters,
        "student_parameters": inspect(source.path).parameters,
    }
