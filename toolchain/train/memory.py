"""What a training needs of memory, before it begins.

Weights, gradients and AdamW's two moments are exact; activations are an estimate after Korthikanti
et al. (arXiv 2205.05198): about 34 values of two bytes for each token, hidden value and layer, plus
the logits with their gradient.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

_ACTIVATION_VALUES = 17  # values kept for a token, a hidden unit and a layer
_NF4_BYTES = 0.56  # 4 bits, and scales for blocks of 64, themselves quantized
_PROCESS_BYTES = 900_000_000  # interpreter, torch and transformers


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes of each part, in one process."""

    weights_bytes: int
    gradients_bytes: int
    optimizer_bytes: int
    activations_bytes: int
    process_bytes: int = _PROCESS_BYTES

    @property
    def total_bytes(self) -> int:
        return sum(asdict(self).values())


def estimate(
    *,
    parameters: int,
    trainable: int,
    linear_parameters: int,
    rows: int,
    tokens: int,
    hidden: int,
    layers: int,
    outputs: int,
    value_bytes: int,
    nf4: bool,
    checkpointing: bool,
) -> MemoryEstimate:
    """The estimate for a batch part of `rows` rows with `tokens` tokens each.

    `outputs`: width of the logits of each token; `value_bytes`: 4 for float32, 2 for bfloat16;
    `linear_parameters`: those that a 4-bit base stores in 4 bits.
    """
    kept_layers = 1 if checkpointing else layers
    positions = rows * tokens
    activations = positions * hidden * (_ACTIVATION_VALUES * kept_layers + layers) * value_bytes
    logits = positions * outputs * 4 * 2
    frozen = parameters - trainable
    packed = linear_parameters if nf4 else 0
    stored = int(packed * _NF4_BYTES) + max(frozen - packed, 0) * value_bytes
    return MemoryEstimate(
        weights_bytes=stored + trainable * 4,
        gradients_bytes=trainable * 4,
        optimizer_bytes=trainable * 8,
        activations_bytes=int(activations + logits),
    )


def as_text(found: MemoryEstimate, free_bytes: int) -> str:
    """The estimate for people."""
    parts: dict[str, Any] = asdict(found)
    named = ", ".join(f"{name.removesuffix('_bytes')} {parts[name] / 1e9:.2f}" for name in parts)
    return f"memory: about {found.total_bytes / 1e9:.2f} GB ({named}); {free_bytes / 1e9:.1f} free"
