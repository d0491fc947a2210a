"""How to train: a recipe's section `finetune`, and the options of `edgeforge finetune`.

Defaults live here and nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from common.strict import Strict

LEARNING_RATES = {"lora": 2e-4, "full": 2e-5}
# What changes how the work is done and not what comes out.
MANNER = ("processes", "accelerate_config", "dataloader_workers")


class Finetune(Strict):
    """Settings of one training. `batch_size` counts examples of one optimizer step, over all
    processes and all of `accumulate`."""

    method: Literal["lora", "full"] = Field("lora", description="train an adapter, or all weights")
    rank: int = Field(8, ge=1, description="rank of the adapter's matrices")
    alpha: float = Field(16, gt=0, description="the adapter is scaled by alpha/rank")
    dropout: float = Field(0.05, ge=0, lt=1, description="dropout in front of the adapter")
    target_modules: Literal["all-linear"] | tuple[str, ...] = Field(
        "all-linear", description="modules that get an adapter: names, or all-linear"
    )
    modules_to_save: tuple[str, ...] = Field(
        (), description="further modules that are trained in full"
    )
    rank_pattern: dict[str, int] = Field(
        default_factory=dict, description="module name (or regex) → its own rank"
    )
    alpha_pattern: dict[str, float] = Field(
        default_factory=dict, description="module name (or regex) → its own alpha"
    )
    dora: bool = Field(False, description="DoRA: magnitude and direction apart (arXiv 2402.09353)")
    rslora: bool = Field(False, description="scale by alpha/√rank (arXiv 2312.03732)")
    quantization: Literal["none", "nf4"] = Field(
        "none", description="nf4: a 4-bit base while training (QLoRA, arXiv 2305.14314)"
    )
    learning_rate: float | None = Field(
        None, gt=0, description="default: 2e-4 for lora, 2e-5 for full"
    )
    schedule: Literal["cosine", "linear", "constant", "constant_with_warmup"] = Field(
        "cosine", description="how the learning rate falls"
    )
    warmup_ratio: float = Field(0.03, ge=0, lt=1, description="share of steps that warm up")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay")
    max_grad_norm: float = Field(1.0, gt=0, description="gradients are clipped to this norm")
    epochs: float = Field(3, gt=0, description="passes over the training rows")
    max_steps: int | None = Field(None, ge=1, description="stop after so many steps")
    batch_size: int = Field(16, ge=1, description="examples of one optimizer step")
    accumulate: int = Field(1, ge=1, description="parts that a step is cut into, to save memory")
    max_tokens: int | None = Field(
        None, ge=8, description="longest row in tokens (default: the context, at most 2048)"
    )
    packing: bool = Field(False, description="several short examples in one row, kept apart")
    loss_on: Literal["answers", "all"] = Field("answers", description="which tokens have a loss")
    bf16: Literal["auto", "yes", "no"] = Field(
        "auto", description="compute in bfloat16; auto: where a GPU does it"
    )
    gradient_checkpointing: bool = Field(False, description="less memory, a third more time")
    evaluation_steps: int | None = Field(
        None, ge=1, description="steps between evaluations and checkpoints (default: an epoch)"
    )
    early_stopping_patience: int | None = Field(
        None, ge=1, description="stop after so many evaluations without a better validation loss"
    )
    seed: int = Field(0, ge=0, description="of adapter, order and dropout")
    processes: int = Field(1, ge=1, description="processes on this machine, by Accelerate")
    accelerate_config: Path | None = Field(
        None, description="a file of `accelerate config`: several machines, FSDP"
    )
    dataloader_workers: int = Field(0, ge=0, description="processes that load rows")

    @property
    def rate(self) -> float:
        """The learning rate."""
        return self.learning_rate or LEARNING_RATES[self.method]

    @model_validator(mode="after")
    def _fits_together(self) -> Finetune:
        faults = []
        if self.quantization != "none" and self.method != "lora":
            faults.append("quantization nf4 trains an adapter: set method lora")
        parts = self.accumulate * (1 if self.accelerate_config else self.processes)
        if self.batch_size % parts:
            faults.append(
                f"batch_size {self.batch_size} is no multiple of accumulate × processes ({parts})"
            )
        if faults:
            raise ValueError("; ".join(faults))
        return self
