"""How a student is distilled: the recipe's section `distill`, and the options of the verb.

Training's own settings are those of `finetune`, with other defaults. Every default stands here and
nowhere else. Nothing heavy is imported: the command line's help is made of these fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from toolchain.compress.distill.student.settings import Student
from toolchain.train.settings import Finetune

NamedModel = Annotated[str, Field(min_length=1)]
Loss = Literal["forward_kl", "reverse_kl", "jensen_shannon", "skewed_kl"]
# What the literature settled on, by temperature: Hinton et al. 2015 (arXiv:1503.02531) and those
# after them soften much and mix evenly; smaller students of language models soften less.
PRESETS: Mapping[str, Mapping[str, float]] = {
    "classic-t5": {"temperature": 5.0, "alpha": 0.5},
    "classic-t2": {"temperature": 2.0, "alpha": 0.7},
}


# What suits a quantized model that learns from itself; measured in docs/exact.md.
EXACT: Mapping[str, float] = {"temperature": 1.0, "alpha": 1.0, "learning_rate": 1e-4}


class Distill(Finetune):
    """Settings of a distillation.

    The loss of a token is `alpha · temperature² · D(teacher, student) + (1 - alpha) · CE(label)`,
    both distributions of D softened by the temperature, the cross entropy not. With method lora,
    `lora_alpha` takes the place of `finetune`'s alpha.
    """

    method: Literal["lora", "full"] = Field(
        default="full", description="train all weights (full) or an adapter (lora)"
    )
    alpha: float = Field(
        default=0.5,
        ge=0,
        le=1,
        allow_inf_nan=False,
        description="share of the teacher's soft targets in the loss; the rest is hard labels",
    )
    lora_alpha: float = Field(
        default=16.0, gt=0, description="LoRA: its change is scaled by lora_alpha / rank"
    )
    teacher: str | None = Field(
        default=None,
        min_length=1,
        description="teacher: a folder or hub id (default: the model before it was compressed)",
    )
    student: NamedModel | Student | None = Field(
        default=None,
        description="student: a folder or hub id, or sizes of a fresh one cut out of the teacher: "
        "ratio=0.25, layers=4,width=512 (default: the model itself, and `teacher` teaches)",
    )
    teacher_cache: Path | None = Field(
        default=None,
        description="folder of `edgeforge teacher-cache`: the teacher itself is not run",
    )
    cache: bool = Field(
        default=False, description="write the teacher's top_k to disk first, train from that"
    )
    top_k: int = Field(
        default=32, ge=1, le=4096, description="cache: likeliest tokens kept at each place"
    )
    preset: Literal["classic-t5", "classic-t2"] | None = Field(
        default=None,
        description="temperature and alpha together: classic-t5 is 5.0 and 0.5, classic-t2 2.0 "
        "and 0.7",
    )
    temperature: float = Field(
        default=2.0,
        ge=0.1,
        le=100,
        allow_inf_nan=False,
        description="softens both distributions; the soft loss is scaled by its square",
    )
    loss: Loss = Field(default="forward_kl", description="divergence between teacher and student")
    beta: float = Field(
        default=0.5,
        gt=0,
        lt=1,
        description="jensen_shannon: share of the teacher in the mixture",
    )
    skew: float = Field(
        default=0.1,
        gt=0,
        lt=1,
        description="skewed_kl: share of the teacher mixed into the student",
    )
    teacher_quantization: Literal["none", "nf4", "int8"] = Field(
        default="none", description="hold the teacher in 4 bit (nf4) or 8 bit (int8)"
    )
    hidden_weight: float = Field(
        default=0.0,
        ge=0,
        allow_inf_nan=False,
        description="weight of matching hidden states (through learned projections)",
    )
    attention_weight: float = Field(
        default=0.0, ge=0, allow_inf_nan=False, description="weight of matching attentions"
    )
    layer_map: tuple[int, ...] = Field(
        default=(),
        description="matching: the teacher's layer for each of the student's, from 0 (default: "
        "spread evenly)",
    )
    on_policy: float = Field(
        default=0.0,
        ge=0,
        le=1,
        description="share of the steps in which the student answers and the teacher scores that",
    )
    on_policy_tokens: int = Field(
        default=64, ge=1, le=4096, description="on_policy: longest answer of the student"
    )
    universal: bool = Field(
        default=False,
        description="teacher and student may have different tokenizers (universal logit "
        "distillation)",
    )

    exact: str | None = Field(
        default=None,
        min_length=1,
        description="train in the blocks of the file (Q4_0, Q8_0, Q4_K_M, …), which then ships; "
        "temperature and alpha are 1.0 then, learning_rate 1e-4, unless they are set",
    )
    exact_every: int | None = Field(
        default=None,
        ge=1,
        description="exact: find the blocks of slow types (K-quants) anew every N steps "
        "(default: 4)",
    )

    exact_start: Literal["nearest", "gptq"] = Field(
        default="nearest",
        description="exact: begin with the weights as they are, or with those rounded by "
        "calibration (gptq), with its scales (recipes)",
    )
    exact_scales: Literal["found", "learned"] = Field(
        default="learned",
        description="exact: scales of blocks are learned with the weights (Q4_0, Q5_0, Q8_0, "
        "IQ4_NL), or found as llama.cpp finds them; those of exact_start gptq are kept then",
    )

    @property
    def training(self) -> Finetune:
        """The settings of the training itself, as `finetune` has them."""
        own = {name: getattr(self, name) for name in Finetune.model_fields}
        return Finetune(**{**own, "alpha": self.lora_alpha})

    @property
    def matches(self) -> bool:
        """Whether hidden states or attentions are matched too."""
        return self.hidden_weight > 0 or self.attention_weight > 0

    @model_validator(mode="before")
    @classmethod
    def _of_preset(cls, values: Any) -> Any:
        """A preset fills in what is not set beside it, and so does `exact`."""
        if not isinstance(values, Mapping):
            return values
        own = EXACT if values.get("exact") else {}
        return {**own, **PRESETS.get(str(values.get("preset")), {}), **values}

    @property
    def fresh(self) -> Student | None:
        """The sizes of a student that is to be made."""
        return self.student if isinstance(self.student, Student) else None

    @property
    def named_student(self) -> str | None:
        """The student where it is a checkpoint."""
        return self.student if isinstance(self.student, str) else None

    @property
    def from_cache(self) -> bool:
        """Whether targets are read from a cache."""
        return self.cache or self.teacher_cache is not None

    @field_validator("student", mode="before")
    @classmethod
    def _of_sizes(cls, value: Any) -> Any:
        """`layers=4,width=512`, as an option is written."""
        if not isinstance(value, str) or "=" not in value or Path(value).exists():
            return value
        pairs = (part.partition("=") for part in value.split(","))
        return {name.strip(): size.strip() for name, _, size in pairs}

    @model_validator(mode="after")
    def _distills(self) -> Distill:
        faults = [*self._cache_faults(), *self._exact_faults()]
        if self.universal and (self.matches or self.on_policy or self.packing):
            faults.append(
                "universal compares probabilities row by row: leave packing, on_policy and "
                "matching off"
            )
        if self.layer_map and not self.matches:
            faults.append("layer_map needs hidden_weight or attention_weight above 0")
        if not self.alpha and not self.matches:
            faults.append("with alpha 0 nothing comes from the teacher: use finetune")
        if self.on_policy and self.packing:
            faults.append("on_policy takes each row's prompt: leave packing off")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _cache_faults(self) -> list[str]:
        faults = []
        if self.cache and self.teacher_cache is not None:
            faults.append("cache writes one, teacher_cache takes one that is there: give one")
        unread = {
            "hidden_weight or attention_weight": self.matches,
            "on_policy": self.on_policy,
            "universal": self.universal,
            "exact": self.exact,
        }
        asked = [name for name, value in unread.items() if value]
        if self.from_cache and asked:
            faults.append(f"a cache holds no more than probabilities: leave {', '.join(asked)} off")
        return faults

    def _exact_faults(self) -> list[str]:
        faults = []
        if self.exact and self.method != "full":
            faults.append("exact trains the weights themselves: it needs method full")
        if self.exact and self.student:
            faults.append("exact trains the model itself: leave student out")
        if self.exact_every and not self.exact:
            faults.append("exact_every belongs to exact")
        if self.exact_start != "nearest" and not self.exact:
            faults.append("exact_start belongs to exact")
        if self.exact_scales != "learned" and not self.exact:
            faults.append("exact_scales belongs to exact")
        return faults
