"""How much memory a run takes, before it begins: weights, gradients, optimizer, activations."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from common.errors import UserError
from toolchain.train.settings import Finetune

_GB = 1e9
# Interpreter, torch and libraries of one process (measured: 1.1 GB resident for a tiny model).
_PROCESS_BYTES = 1_000_000_000
_NF4_BYTES = 0.5 + 1 / 64 + 0.01  # 4 bit and a quantized scale for 64 weights
# Values kept for the backward pass, in widths of the hidden and the feed-forward layer.
_HIDDEN_COPIES, _FFN_COPIES, _LOGIT_COPIES = 16, 4, 4


@dataclass(frozen=True)
class Memory:
    """An estimate of what one process holds at its peak, in bytes."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    teacher: int = 0

    @property
    def total(self) -> int:
        """All of it, with the process itself."""
        parts = self.weights + self.gradients + self.optimizer + self.activations + self.teacher
        return parts + _PROCESS_BYTES

    def line(self) -> str:
        """For people."""
        named = ", ".join(f"{name} {size / _GB:.2f}" for name, size in asdict(self).items() if size)
        return f"memory: about {self.total / _GB:.2f} GB a process ({named})"


def estimate_memory(
    network: Any, settings: Finetune, *, longest: int, bf16: bool, teacher_bytes: int = 0
) -> Memory:
    """The estimate for a network (weights may be on torch's meta device) whose longest row has
    `longest` tokens, beside a teacher of `teacher_bytes`. Good to a factor of about 1.5; refusing
    is for what plainly cannot fit."""
    wide, narrow = 4, 2 if bf16 else 4
    trained = sum(p.numel() for p in network.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in network.parameters() if not p.requires_grad)
    weights = trained * wide + frozen * narrow
    if settings.quantization == "nf4":
        linear = _frozen_linear(network)
        weights = trained * wide + (frozen - linear) * wide + int(linear * _NF4_BYTES)
    tokens = longest * (settings.batch_size // settings.processes)
    return Memory(
        weights=weights,
        gradients=trained * wide,
        optimizer=trained * 8,
        activations=_activations(network.config, tokens, narrow, settings.gradient_checkpointing),
        teacher=teacher_bytes,
    )


def require_memory(memory: Memory, settings: Finetune) -> None:
    """Raise `UserError` when this machine plainly cannot hold the run."""
    from runtimes.host import read_host
    from toolchain.hf import free_memory_bytes

    gpu = read_host().gpu
    needed, free_bytes = memory.total * settings.processes, free_memory_bytes()
    where = "memory"
    if gpu is not None:  # one process has one GPU
        needed, free_bytes = memory.total, gpu.memory_total_bytes
        where = f"memory of the {gpu.name}"
    if needed > free_bytes:
        less = [] if settings.gradient_checkpointing else ["gradient_checkpointing true"]
        if settings.method == "full":
            less.append("method lora")
        elif settings.quantization == "none":
            less.append("quantization nf4")
        raise UserError(
            f"not enough {where} to train: about {needed / _GB:.1f} GB needed, "
            f"{free_bytes / _GB:.1f} GB free ({memory.line()})",
            f"lower batch_size (and raise accumulate) or max_tokens; or set {', '.join(less)}"
            if less
            else "lower batch_size (and raise accumulate) or max_tokens",
        )


def _activations(config: Any, tokens: int, width: int, checkpointing: bool) -> int:
    text = config.get_text_config()
    hidden, layers = text.hidden_size, text.num_hidden_layers
    ffn = getattr(text, "intermediate_size", None) or 4 * hidden
    layer = (_HIDDEN_COPIES * hidden + _FFN_COPIES * ffn) * width * tokens
    kept = hidden * width * tokens * layers + layer if checkpointing else layer * layers
    labels = getattr(config, "num_labels", 2)
    classes = text.vocab_size if "CausalLM" in str(config.architectures) else labels
    return int(kept + _LOGIT_COPIES * classes * 4 * tokens)


def _frozen_linear(network: Any) -> int:
    """Weights of the layers that nf4 shrinks: linear ones but for the head."""
    head = network.get_output_embeddings() if hasattr(network, "get_output_embeddings") else None
    return sum(
        part.weight.numel()
        for part in network.modules()
        if type(part).__name__ == "Linear" and part is not head and not part.weight.requires_grad
    )
