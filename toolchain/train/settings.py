"""How a model is fine-tuned: the recipe's section `finetune`, and the options of the verb.

Every default stands here and nowhere else. Nothing heavy is imported: the command line's help is
made of these fields.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from common.strict import Strict

ALL_LINEAR = "all-linear"
# By method: what LoRA's few weights bear would tear a whole model apart.
_LEARNING_RATES = {"lora": 2e-4, "full": 2e-5}


class Finetune(Strict):
    """Settings of a fine-tuning run.

    A batch is `batch_size` rows of all processes together, and `accumulate` batches make a step, so
    that a recipe means the same on one device and on many.
    """

    method: Literal["lora", "full"] = Field(
        default="lora", description="train an adapter (lora) or all weights (full)"
    )
    rank: int = Field(default=8, ge=1, le=1024, description="LoRA: rank of the adapter")
    alpha: float = Field(
        default=16.0, gt=0, description="LoRA: its change is scaled by alpha / rank"
    )
    dropout: float = Field(default=0.05, ge=0, lt=1, description="LoRA: share of inputs left out")
    target_modules: str | tuple[str, ...] = Field(
        default=ALL_LINEAR,
        description="LoRA: layers that get an adapter (q_proj,v_proj), or all-linear",
    )
    modules_to_save: tuple[str, ...] = Field(
        default=(),
        description="LoRA: layers trained whole beside it (embed_tokens: new words)",
    )
    rank_pattern: dict[str, int] = Field(
        default_factory=dict, description="LoRA: another rank for layers whose name matches"
    )
    alpha_pattern: dict[str, float] = Field(
        default_factory=dict, description="LoRA: another alpha for layers whose name matches"
    )
    dora: bool = Field(default=False, description="LoRA: train magnitudes apart (DoRA)")
    rslora: bool = Field(default=False, description="LoRA: scale by alpha / sqrt(rank)")
    quantization: Literal["none", "nf4"] = Field(
        default="none", description="LoRA: nf4 keeps the frozen base in 4 bit"
    )
    learning_rate: float | None = Field(
        default=None, gt=0, allow_inf_nan=False, description="peak rate (default: 2e-4, full 2e-5)"
    )
    schedule: Literal["cosine", "linear", "constant"] = Field(
        default="cosine", description="how the rate falls after the warm-up"
    )
    warmup_ratio: float = Field(
        default=0.03, ge=0, lt=1, description="share of the steps in which the rate rises"
    )
    weight_decay: float = Field(default=0.0, ge=0, lt=1, description="AdamW's weight decay")
    max_grad_norm: float = Field(
        default=1.0, ge=0, description="longer gradients are cut to this norm; 0: never"
    )
    epochs: float = Field(default=3.0, gt=0, le=10_000, description="passes over the training rows")
    max_steps: int | None = Field(default=None, ge=1, description="end after this many steps")
    batch_size: int = Field(
        default=8, ge=1, description="rows at a time, of all processes together"
    )
    accumulate: int = Field(default=1, ge=1, description="batches that make one step")
    max_tokens: int | None = Field(
        default=None,
        ge=8,
        description="longer rows are cut (default: the model's context, at most 2048)",
    )
    packing: bool = Field(
        default=False, description="fill rows with several examples, which do not see each other"
    )
    loss_on: Literal["answers", "all"] = Field(
        default="answers", description="conversations: tokens that are learned"
    )
    bf16: bool | Literal["auto"] = Field(
        default="auto", description="compute in bfloat16 (auto: on a GPU that can)"
    )
    gradient_checkpointing: bool = Field(
        default=False, description="compute activations twice to save memory"
    )
    early_stopping_patience: int | None = Field(
        default=None, ge=1, description="end after N evaluations without a lower validation loss"
    )
    keep: Literal["best", "last"] = Field(
        default="best", description="result: the lowest validation loss (best), or the end (last)"
    )
    evals_per_epoch: int = Field(
        default=1, ge=1, le=1000, description="validations in an epoch, each with a checkpoint"
    )
    # Not in a stage's key: how often a run is saved does not change what it gives.
    saves_per_epoch: int = Field(
        default=2, ge=1, le=1000, exclude=True, description="checkpoints in an epoch"
    )
    seed: int = Field(default=0, ge=0, lt=2**32, description="order of rows, start of new weights")
    processes: int = Field(
        default=1, ge=1, le=4096, description="processes (one per GPU) on this machine"
    )
    accelerate_config: Path | None = Field(
        default=None, description="settings file of `accelerate config` (FSDP, several machines)"
    )

    @property
    def rate(self) -> float:
        """The peak learning rate."""
        return self.learning_rate or _LEARNING_RATES[self.method]

    @property
    def rows_per_step(self) -> int:
        """Rows of all processes that one step of the optimizer learns from."""
        return self.batch_size * self.accumulate

    @model_validator(mode="after")
    def _fits_together(self) -> Finetune:
        faults = []
        if self.method == "full":
            if self.quantization != "none":
                faults.append("quantization nf4 freezes the base: it needs method lora")
            if self.modules_to_save:
                faults.append("modules_to_save belongs to method lora; full trains every layer")
            if self.dora or self.rslora:
                faults.append("dora and rslora belong to method lora")
        if self.batch_size % self.processes:
            faults.append(
                f"batch_size {self.batch_size} cannot be shared by {self.processes} processes"
            )
        if faults:
            raise ValueError("; ".join(faults))
        return self
