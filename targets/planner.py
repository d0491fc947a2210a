"""What a model costs on a target, by arithmetic alone: memory, what fits, expected decode speed.

    plan(shape, target, sizes).order    # the types to try, best first

Estimates, on the safe side for memory:

- KV cache: layers × KV heads × (key + value dim) × context (padded to 256, as in llama.cpp) × bytes
  for an element. Sliding windows and shared layers make it smaller; this counts neither.
- Compute buffer of one micro-batch of 512 tokens (llama.cpp's default): the attention mask, plus in
  F32 the largest of the logits, of a feed-forward layer (three FFN rows, four hidden rows) and,
  without flash attention, of the attention scores (heads × context, six hidden rows). Flash
  attention is counted only where a quantized KV cache demands it. Against what llama.cpp reports
  for four Llama shapes of 64 to 1024 hidden and 512 to 32000 tokens of vocabulary: at most 22 %
  above, less than 1 % below.
- Decode: a token reads the weights once and half a full KV cache, at `BANDWIDTH_EFFICIENCY` of the
  memory's bandwidth, plus `LAYER_OVERHEAD_SEC` for each layer. llama.cpp on one x86 core with 25.7
  GB/s reached shares of 49 % (Q5_K_M) to 85 % (F16).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from targets.schema import Target

BANDWIDTH_EFFICIENCY = 0.6
BANDWIDTH_EFFICIENCY_MEASURED = (0.49, 0.85)
# Barriers, norms and launches: a 5-layer model of 0.5 MB takes 155 µs for a token on one x86 core.
LAYER_OVERHEAD_SEC = 25e-6

MICRO_BATCH_TOKENS = 512
_CONTEXT_PADDING = 256
_GIB = 1 << 30
# (bytes, elements) of a block, as in ggml.
_KV_BLOCKS = {"f32": (4, 1), "f16": (2, 1), "q8_0": (34, 32), "q4_0": (18, 32)}


@dataclass(frozen=True)
class ModelShape:
    """What of a model decides its memory. `kv_heads`: one number, or one for each layer (0 where a
    layer keeps no KV cache). `ffn`: widest feed-forward row that one token passes."""

    name: str
    architecture: str
    parameters: int
    layers: int
    heads: int
    kv_heads: int | tuple[int, ...]
    key_dim: int
    value_dim: int
    hidden: int
    ffn: int
    vocab: int
    context_tokens: int | None

    @property
    def kv_heads_in_all(self) -> int:
        """Sum of KV heads over all layers."""
        if isinstance(self.kv_heads, int):
            return self.kv_heads * self.layers
        return sum(self.kv_heads)


@dataclass(frozen=True)
class Fallback:
    """A tensor that gets another type than asked for, because its rows are no whole blocks."""

    tensor: str
    intended: str
    actual: str


@dataclass(frozen=True)
class TypeSize:
    """The model in one quantization type. `bytes_read_per_token`: of the weights, in decoding.
    `unnamed_tensors`: how many have no known GGUF name, so their type is a guess."""

    quantization: str
    weights_bytes: int
    bytes_read_per_token: int
    bits_per_weight: float
    tensors: int
    fallbacks: tuple[Fallback, ...] = ()
    unnamed_tensors: int = 0


@dataclass(frozen=True)
class Candidate:
    """One quantization type on the target. `accelerator_bytes` counts separate memory only."""

    size: TypeSize
    total_bytes: int
    accelerator_bytes: int
    fits: bool
    reason: str
    decode_tokens_per_sec: float


@dataclass(frozen=True)
class Plan:
    """Every candidate in the target's order; `order` holds those that fit."""

    model: str
    target: str
    context_tokens: int
    kv_cache_type: str
    kv_cache_bytes: int
    compute_bytes: int
    usable_bytes: int
    accelerator_usable_bytes: int
    candidates: tuple[Candidate, ...]
    bandwidth_efficiency: float = BANDWIDTH_EFFICIENCY

    @property
    def order(self) -> tuple[str, ...]:
        """Types that fit, in order of preference: what `auto` tries."""
        return tuple(c.size.quantization for c in self.candidates if c.fits)


def plan(
    shape: ModelShape,
    target: Target,
    sizes: Sequence[TypeSize],
    kv_cache_type: str | None = None,
) -> Plan:
    """The plan for these sizes; pass them in the order of preference. The KV cache is the target's
    where `kv_cache_type` names no other."""
    context_tokens = target.context_for(shape.context_tokens)
    wanted = kv_cache_type or target.kv_cache_type
    kv_type = usable_kv_cache_type(wanted, shape.key_dim, shape.value_dim)
    kv_bytes = kv_cache_bytes(shape, context_tokens, kv_type)
    flash_attention = kv_type not in ("f32", "f16")
    buffer_bytes = compute_bytes(shape, context_tokens, flash_attention=flash_attention)
    return Plan(
        model=shape.name,
        target=target.name,
        context_tokens=context_tokens,
        kv_cache_type=kv_type,
        kv_cache_bytes=kv_bytes,
        compute_bytes=buffer_bytes,
        usable_bytes=_bytes(target.memory.usable_gib),
        accelerator_usable_bytes=_bytes(target.accelerator.memory_gib or 0),
        candidates=tuple(_candidate(shape, target, s, kv_bytes, buffer_bytes) for s in sizes),
    )


def usable_kv_cache_type(wanted: str, key_dim: int, value_dim: int) -> str:
    """The KV-cache type that llama.cpp takes: a quantized one needs heads of whole blocks."""
    _, block = _KV_BLOCKS[wanted]
    return wanted if key_dim % block == 0 and value_dim % block == 0 else "f16"


def kv_cache_bytes(shape: ModelShape, context_tokens: int, kv_cache_type: str) -> int:
    """Bytes of a full KV cache."""
    padded = -(-context_tokens // _CONTEXT_PADDING) * _CONTEXT_PADDING
    block_bytes, block = _KV_BLOCKS[kv_cache_type]
    elements = shape.kv_heads_in_all * (shape.key_dim + shape.value_dim) * padded
    return elements * block_bytes // block


def compute_bytes(shape: ModelShape, context_tokens: int, *, flash_attention: bool) -> int:
    """Upper estimate of llama.cpp's compute buffer."""
    padded = -(-context_tokens // _CONTEXT_PADDING) * _CONTEXT_PADDING
    rows = min(MICRO_BATCH_TOKENS, padded)
    widest = max(shape.vocab + shape.hidden, 3 * shape.ffn + 4 * shape.hidden)
    if flash_attention:
        return rows * (2 * padded + 4 * widest)  # the mask is F16 here
    scores = shape.heads * padded + 6 * shape.hidden
    return rows * 4 * (padded + max(widest, scores))


def offloaded_share(shape: ModelShape, target: Target) -> float:
    """Share of the model that runs on the accelerator (the output counts as one more layer)."""
    if target.gpu_layers < 0:
        return 1.0
    return min(1.0, target.gpu_layers / (shape.layers + 1))


def _candidate(
    shape: ModelShape, target: Target, size: TypeSize, kv_bytes: int, buffer_bytes: int
) -> Candidate:
    total = size.weights_bytes + kv_bytes + buffer_bytes
    separate = target.accelerator.memory == "separate"
    share = offloaded_share(shape, target) if separate else 0.0
    on_device = int(share * (size.weights_bytes + kv_bytes)) + (buffer_bytes if share else 0)
    faults = []
    if separate and on_device > _bytes(target.accelerator.memory_gib or 0):
        limit = target.accelerator.memory_gib
        faults.append(f"needs {on_device / _GIB:.2f} GiB on the accelerator, {limit:g} usable")
    if total - on_device > _bytes(target.memory.usable_gib):
        limit = target.memory.usable_gib
        faults.append(f"needs {(total - on_device) / _GIB:.2f} GiB of memory, {limit:g} usable")
    return Candidate(
        size=size,
        total_bytes=total,
        accelerator_bytes=on_device,
        fits=not faults,
        reason="; ".join(faults),
        decode_tokens_per_sec=_decode_speed(shape, target, size, kv_bytes, share),
    )


def _decode_speed(
    shape: ModelShape, target: Target, size: TypeSize, kv_bytes: int, share: float
) -> float:
    """Expected tokens/s halfway through the context."""
    read_bytes = size.bytes_read_per_token + kv_bytes / 2
    own_bandwidth = target.accelerator.bandwidth_gb_per_sec or target.memory.bandwidth_gb_per_sec
    sec_per_byte = share / own_bandwidth + (1 - share) / target.memory.bandwidth_gb_per_sec
    sec = read_bytes * sec_per_byte / 1e9 / BANDWIDTH_EFFICIENCY
    return 1 / (sec + shape.layers * LAYER_OVERHEAD_SEC)


def _bytes(gib: float) -> int:
    return int(gib * _GIB)
