"""How large a model is in each type, and what memory it takes, before anything is made."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolchain.backend import is_encoder, variants_of
from toolchain.checkpoint.info import CheckpointInfo

if TYPE_CHECKING:
    from targets.planner import TypeSize
    from targets.schema import Target

# Without a target: the types that users ask for most, smallest last.
TYPES = ("F16", "Q8_0", "Q6_K", "Q5_K_M", "Q4_K_M", "IQ4_XS", "Q4_0", "Q3_K_M")
CONTEXT_TOKENS = 4096


@dataclass(frozen=True)
class SizeRow:
    """One type. `total_bytes`: weights, KV cache and buffers; `fits` None without a target."""

    size: TypeSize
    total_bytes: int
    fits: bool | None
    decode_tokens_per_sec: float | None


@dataclass(frozen=True)
class Sizes:
    """Every type, at a context of so many tokens."""

    context_tokens: int
    rows: tuple[SizeRow, ...]

    def as_json(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def gguf_sizes(info: CheckpointInfo, target: Target | None) -> Sizes:
    """Exact sizes as GGUF, with every fallback. Raises `UserError` for an architecture without a
    GGUF form."""
    from targets.planner import compute_bytes, kv_cache_bytes, plan
    from toolchain.plan import model_shape, type_sizes

    shape = model_shape(info)
    names = list(dict.fromkeys((*target.quantization, *TYPES))) if target else list(TYPES)
    sizes = type_sizes(info, names)
    if target is not None:
        return _planned(plan(shape, target, sizes))
    context = min(CONTEXT_TOKENS, shape.context_tokens or CONTEXT_TOKENS)
    beside = kv_cache_bytes(shape, context, "f16")
    beside += compute_bytes(shape, context, flash_attention=False)
    rows = [SizeRow(size, size.weights_bytes + beside, None, None) for size in sizes]
    return Sizes(context, tuple(rows))


def onnx_variants(info: CheckpointInfo, target: Target | None) -> Sizes:
    """Estimated sizes as ONNX INT8, variant by variant."""
    from toolchain.plan import plan_onnx
    from toolchain.plan_onnx import onnx_sizes

    encoder = is_encoder(info)
    if target is not None:
        names = variants_of(target, encoder=encoder)
        return _planned(plan_onnx(info, target, names, encoder=encoder).plan)
    from targets.quantization import ONNX_DECODER_VARIANTS, ONNX_ENCODER_VARIANTS

    names = ONNX_ENCODER_VARIANTS if encoder else ONNX_DECODER_VARIANTS
    rows = [SizeRow(s, s.weights_bytes, None, None) for s in onnx_sizes(info, names)]
    return Sizes(0, tuple(rows))


def _planned(found: Any) -> Sizes:
    rows = [
        SizeRow(c.size, c.total_bytes, c.fits, c.decode_tokens_per_sec) for c in found.candidates
    ]
    return Sizes(found.context_tokens, tuple(rows))
