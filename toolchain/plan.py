"""From a checkpoint to the planner's input: the model's shape, and its exact size in each type.

    plan_model(inspect(path), load_target("jetson")).order    # what `auto` tries

Sizes come from llama.cpp's own quantizer, run dry over the GGUF's real tensor names and shapes, so
they include every fallback. No weight is read and nothing is written.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from targets.quantization import MIXED
from toolchain.checkpoint import config_facts
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.layer_widths import layer_widths

if TYPE_CHECKING:
    from runtimes.predict import PredictedTensor
    from targets.planner import ModelShape, Plan, TypeSize
    from targets.schema import Target
    from toolchain.export.gguf.mixed.settings import Mixed

AUTO = "auto"

_HEADS = ("num_attention_heads", "n_head", "n_heads")
_KV_HEADS = ("num_key_value_heads", "n_kv_heads", "num_kv_heads")
_FFN = ("intermediate_size", "n_inner", "ffn_dim", "hidden_dim")
_EXPERTS_USED = ("num_experts_per_tok", "num_experts_per_token", "top_k_experts")
# Of these, decoding reads one row for a token, not the whole.
_LOOKUPS = ("position_embd.weight", "token_types.weight", "per_layer_token_embd.weight")
_EMBEDDING = "token_embd.weight"
_OUTPUT = "output.weight"
_HF_EMBEDDINGS = ("embed_tokens.weight", "wte.weight", "word_embeddings.weight")


@dataclass(frozen=True)
class Experts:
    """A mixture of experts: `used` of `count` take part in a token. Both 0 for dense models."""

    count: int
    used: int

    @property
    def share(self) -> float:
        return self.used / self.count if self.count else 1.0


@dataclass(frozen=True)
class ModelPlan:
    """The model's shape and what it costs on the target."""

    shape: ModelShape
    plan: Plan
    backend: str = "gguf"

    @property
    def order(self) -> tuple[str, ...]:
        """Types that fit, in order of preference."""
        return self.plan.order


def plan_model(
    info: CheckpointInfo,
    target: Target,
    quantization: str = AUTO,
    *,
    with_imatrix: bool = True,
    tensor_types: Mapping[str, str] | None = None,
    pure: bool = False,
    mixed: Mixed | None = None,
) -> ModelPlan:
    """The plan of this checkpoint for a target: its candidates, or the one type asked for. `mixed`
    are the settings of a file of mixed types.

    Raises `UserError` for an unknown type, an architecture without a GGUF form, and mixed types of
    a size that is too small.
    """
    from targets.planner import plan

    wanted = [quantization] if quantization != AUTO else _candidates(target, mixed)
    plain = [name for name in wanted if name != MIXED]
    sizes = type_sizes(info, plain, with_imatrix=with_imatrix, tensor_types=tensor_types, pure=pure)
    if MIXED in wanted and mixed is not None:
        sizes.insert(wanted.index(MIXED), _mixed_size(info, mixed, with_imatrix=with_imatrix))
    shape = model_shape(info)
    return ModelPlan(shape, plan(shape, target, sizes))


def plan_with_types(
    info: CheckpointInfo,
    target: Target,
    quantizations: Sequence[str],
    *,
    with_imatrix: bool = True,
    tensor_types: Mapping[str, str] | None = None,
    pure: bool = False,
) -> tuple[ModelPlan, dict[str, dict[str, str]]]:
    """The plan of these types (exact names, in the order given), and by type what each tensor of
    the file will be. Raises as `plan_model`."""
    from targets.planner import plan

    predicted, unnamed = predicted_tensors(
        info, quantizations, with_imatrix=with_imatrix, tensor_types=tensor_types, pure=pure
    )
    experts = _experts(info)
    sizes = [_type_size(name, tensors, experts, unnamed) for name, tensors in predicted.items()]
    shape = model_shape(info)
    types = {name: {t.name: t.actual for t in tensors} for name, tensors in predicted.items()}
    return ModelPlan(shape, plan(shape, target, sizes)), types


def plan_onnx(
    info: CheckpointInfo, target: Target, variants: Sequence[str], *, encoder: bool
) -> ModelPlan:
    """The plan of this checkpoint as ONNX: float32 computes, and the KV cache is float32 too."""
    from targets.planner import plan
    from toolchain.plan_onnx import onnx_sizes

    shape = model_shape(info, gguf=False)
    if encoder:
        shape = dataclasses.replace(shape, kv_heads=0)
    planned = plan(shape, target, onnx_sizes(info, variants), "f32")
    return ModelPlan(shape, planned, "onnx-encoder" if encoder else "onnx")


def plan_stored(info: CheckpointInfo, target: Target, backend: str = "gguf") -> Plan:
    """The plan of the checkpoint's own tensors, unquantized: by arithmetic alone, in a moment."""
    from targets.planner import TypeSize, plan

    share = _experts(info).share
    read = sum(
        int(tensor.size_bytes * (share if ".experts." in tensor.name else 1.0))
        for tensor in info.tensors
        if info.tied_embeddings or not tensor.name.endswith(_HF_EMBEDDINGS)
    )
    size = TypeSize(
        quantization="unquantized",
        weights_bytes=info.weight_bytes,
        bytes_read_per_token=min(read, info.weight_bytes),
        bits_per_weight=8 * info.weight_bytes / info.parameters,
        tensors=len(info.tensors),
    )
    shape = model_shape(info, gguf=backend == "gguf")
    if backend == "onnx-encoder":
        shape = dataclasses.replace(shape, kv_heads=0)
    return plan(shape, target, [size], None if backend == "gguf" else "f32")


def type_sizes(
    info: CheckpointInfo,
    quantizations: Sequence[str],
    *,
    with_imatrix: bool = True,
    tensor_types: Mapping[str, str] | None = None,
    pure: bool = False,
) -> list[TypeSize]:
    """The model's size in each type, in the order given.

    Raises `UserError` for an unknown type or an architecture without a GGUF form.
    """
    if not quantizations:
        return []
    predicted, unnamed = predicted_tensors(
        info, quantizations, with_imatrix=with_imatrix, tensor_types=tensor_types, pure=pure
    )
    return [_type_size(name, own, _experts(info), unnamed) for name, own in predicted.items()]


def predicted_tensors(
    info: CheckpointInfo,
    quantizations: Sequence[str],
    *,
    with_imatrix: bool = True,
    tensor_types: Mapping[str, str] | None = None,
    pure: bool = False,
) -> tuple[dict[str, list[PredictedTensor]], int]:
    """Each quantization's tensors as llama.cpp would make them, by exact name in the order given;
    and how many weights gguf's table has no name for. Raises as `type_sizes`."""
    from runtimes.predict import predict_many
    from runtimes.quantizer import canonical_quantization
    from toolchain.gguf_names import gguf_architecture, gguf_tensors

    names = list(dict.fromkeys(canonical_quantization(name) for name in quantizations))
    architecture = gguf_architecture(_architecture(info))
    tensors, unnamed = gguf_tensors(info, architecture, _layers(info))
    predicted = predict_many(
        architecture,
        gguf_metadata(info),
        tensors,
        names,
        with_imatrix=with_imatrix,
        tensor_types=tensor_types,
        pure=pure,
    )
    return {name: predicted[name] for name in names}, len(unnamed)


def read_bits(info: CheckpointInfo, quantization: str) -> dict[str, float]:
    """Bits that a token's decoding reads for a value of each tensor, by the checkpoint's names; 0
    for an embedding that only looks rows up. For dense models.

    Raises `UserError` for an unknown type or an architecture without a GGUF form.
    """
    from runtimes.predict import predict_types
    from toolchain.gguf_names import gguf_architecture, gguf_tensors, language_model_tensors

    architecture = gguf_architecture(_architecture(info))
    tensors, _ = gguf_tensors(info, architecture, _layers(info))
    predicted = predict_types(
        architecture, gguf_metadata(info), tensors, quantization, with_imatrix=True
    )
    has_output = any(tensor.name == _OUTPUT for tensor in predicted)
    return {
        own: 8 * _bytes_read(tensor, Experts(0, 0), has_output) / _elements(tensor.shape)
        for (own, _), tensor in zip(language_model_tensors(info), predicted, strict=False)
    }


def model_shape(info: CheckpointInfo, *, gguf: bool = True) -> ModelShape:
    """What of the checkpoint decides memory and speed on a target; as `gguf` its context is as long
    as llama.cpp computes it."""
    from targets.planner import ModelShape
    from toolchain.export.gguf.window import file_context

    config = info.text_config
    kv_heads, key_dim, value_dim = _kv_cache_dims(config)
    hidden = config_facts.hidden_size(config) or 0
    return ModelShape(
        name=info.name,
        architecture=_architecture(info),
        parameters=info.parameters,
        layers=_layers(info),
        heads=config_facts.whole_number(config, _HEADS) or 0,
        kv_heads=kv_heads,
        key_dim=key_dim,
        value_dim=value_dim,
        hidden=hidden,
        ffn=_ffn_width(config),
        vocab=info.vocab_size or 0,
        context_tokens=file_context(config, info.context_tokens) if gguf else info.context_tokens,
    )


def gguf_metadata(info: CheckpointInfo) -> dict[str, Any]:
    """The GGUF keys (without the architecture's prefix) that llama.cpp's quantizer asks for."""
    config = info.text_config
    heads = config_facts.whole_number(config, _HEADS)
    hidden = config_facts.hidden_size(config)
    experts = _experts(info)
    found = {
        "block_count": _layers(info),
        "context_length": info.context_tokens,
        "embedding_length": hidden,
        "feed_forward_length": _ffn_width(config),
        "attention.head_count": heads,
        "attention.head_count_kv": _first(config, _KV_HEADS),
        "attention.key_length": config.get("head_dim"),
        "attention.value_length": config.get("head_dim"),
        "attention.layer_norm_rms_epsilon": _first(config, ("rms_norm_eps", "norm_eps")),
        "attention.layer_norm_epsilon": _first(config, ("layer_norm_eps", "layer_norm_epsilon")),
        "rope.dimension_count": config.get("head_dim")
        or (hidden // heads if hidden and heads else None),
        "vocab_size": info.vocab_size,
        "expert_count": experts.count or None,
        "expert_used_count": experts.used or None,
    }
    return {key: value for key, value in found.items() if value is not None}


def _candidates(target: Target, mixed: Mixed | None) -> list[str]:
    """What `auto` tries. Mixed types of a candidate's size come right behind it: they take longer
    to find, and lose less than it, without the size of the one to come."""
    names = list(target.quantization)
    if mixed is None or not mixed.auto:
        return names
    place = names.index(mixed.sized_as) + 1 if mixed.sized_as in names else 0
    return [*names[:place], MIXED, *names[place:]]


def _mixed_size(info: CheckpointInfo, mixed: Mixed, *, with_imatrix: bool) -> TypeSize:
    """The size that a file of mixed types may have. What decoding reads of it is in proportion to
    that of a plain one: which tensors become larger is not known yet."""
    from toolchain.export.gguf.mixed.matrices import find_room

    room = find_room(info, mixed, with_imatrix=with_imatrix)
    [plain] = type_sizes(info, [room.plain], with_imatrix=with_imatrix)
    weights_bytes = min(room.limit_bytes, room.most_bytes) + room.rest_bytes
    share = weights_bytes / plain.weights_bytes
    return dataclasses.replace(
        plain,
        quantization=MIXED,
        weights_bytes=weights_bytes,
        bytes_read_per_token=int(plain.bytes_read_per_token * share),
        bits_per_weight=plain.bits_per_weight * share,
        fallbacks=(),
    )


def _type_size(
    name: str, tensors: Sequence[PredictedTensor], experts: Experts, unnamed: int
) -> TypeSize:
    from targets.planner import Fallback, TypeSize

    weights_bytes = sum(tensor.size_bytes for tensor in tensors)
    elements = sum(_elements(tensor.shape) for tensor in tensors)
    has_output = any(tensor.name == _OUTPUT for tensor in tensors)
    return TypeSize(
        quantization=name,
        weights_bytes=weights_bytes,
        bytes_read_per_token=sum(_bytes_read(t, experts, has_output) for t in tensors),
        bits_per_weight=8 * weights_bytes / elements,
        tensors=len(tensors),
        unnamed_tensors=unnamed,
        fallbacks=tuple(
            Fallback(t.name, t.intended, t.actual) for t in tensors if t.intended != t.actual
        ),
    )


def _bytes_read(tensor: PredictedTensor, experts: Experts, has_output: bool) -> int:
    """Bytes of this tensor that one token's decoding reads; a tied embedding is the output too."""
    if tensor.name.endswith(_LOOKUPS) or (tensor.name == _EMBEDDING and has_output):
        return 0
    share = experts.share if "_exps." in tensor.name else 1.0
    return int(tensor.size_bytes * share)


def _kv_cache_dims(config: Mapping[str, Any]) -> tuple[int | tuple[int, ...], int, int]:
    """KV heads (0 without attention), key and value width of what the cache keeps."""
    if latent := config_facts.whole_number(config, ("kv_lora_rank",)):
        # Multi-head latent attention caches one latent row for all heads (DeepSeek-V2, 2405.04434).
        return 1, latent + int(config.get("qk_rope_head_dim") or 0), latent
    heads = config_facts.whole_number(config, _HEADS)
    if not heads:
        return 0, 0, 0
    dim = config.get("head_dim") or (config_facts.hidden_size(config) or 0) // heads
    kv_heads = _first(config, _KV_HEADS) or heads
    if widths := layer_widths(config):
        kv_heads = widths["num_key_value_heads"]
    if isinstance(kv_heads, list):
        return tuple(int(n) for n in kv_heads), int(dim), int(dim)
    return (1 if config.get("multi_query") else int(kv_heads)), int(dim), int(dim)


def _ffn_width(config: Mapping[str, Any]) -> int:
    widths = _first(config, _FFN)
    if isinstance(widths, list):
        return max(int(width) for width in widths)
    return int(widths or 4 * (config_facts.hidden_size(config) or 0))


def _experts(info: CheckpointInfo) -> Experts:
    count = config_facts.whole_number(info.text_config, config_facts.EXPERTS) or 0
    used = config_facts.whole_number(info.text_config, _EXPERTS_USED) or 0
    return Experts(count, used or count) if count > 1 else Experts(0, 0)


def _layers(info: CheckpointInfo) -> int:
    layers = config_facts.layer_count(info.text_config)
    if not layers:
        raise UserError(f"{info.path}/config.json does not say how many layers the model has")
    return layers


def _architecture(info: CheckpointInfo) -> str:
    if info.architecture is None:
        raise UserError(
            f"{info.path}/config.json names no architecture", 'add "architectures": ["…"]'
        )
    return info.architecture


def _first(config: Mapping[str, Any], keys: Sequence[str]) -> Any:
    return next((config[key] for key in keys if config.get(key) is not None), None)


def _elements(shape: Sequence[int]) -> int:
    count = 1
    for width in shape:
        count *= width
    return count
