"""What a merge writes, settled from headers alone: every tensor of the result and where it comes
from.

Tied embeddings: an adapter that changes one side of a tied pair unties it, as in peft's model in
training. The result then has its own `lm_head.weight` and `tie_word_embeddings: false`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from common.errors import UserError
from toolchain.checkpoint import config_facts
from toolchain.checkpoint.info import CheckpointInfo, TensorHeader
from toolchain.compress.adapter import Adapter, LoraModule
from toolchain.compress.float_blocks import is_float, item_bytes

DTYPES = {"float32": "F32", "float16": "F16", "bfloat16": "BF16"}
_LISTED = 5
_HEAD = "lm_head.weight"


@dataclass(frozen=True)
class Change:
    """What happens to one parameter. `transposed`: the tensor is stored as (in, out), as an
    embedding and GPT-2's Conv1D are."""

    parameter: str
    replaced: TensorHeader | None = None
    lora: LoraModule | None = None
    added_bias: TensorHeader | None = None
    bias_scaling: float = 1.0
    transposed: bool = False


@dataclass(frozen=True)
class OutTensor:
    """One tensor of the result: `base`'s values with `change`, stored as `dtype`."""

    name: str
    dtype: str
    base: TensorHeader
    change: Change | None = None

    @property
    def size_bytes(self) -> int:
        if not is_float(self.dtype):
            return self.base.size_bytes
        return self.base.elements * item_bytes(self.dtype)


@dataclass(frozen=True)
class MergePlan:
    """The shards of the result by file name, each in the order of its bytes."""

    shards: Mapping[str, tuple[OutTensor, ...]]
    config: Mapping[str, Any]
    untied: bool

    @property
    def tensors(self) -> tuple[OutTensor, ...]:
        return tuple(tensor for shard in self.shards.values() for tensor in shard)

    @property
    def size_bytes(self) -> int:
        return sum(tensor.size_bytes for tensor in self.tensors)


def plan_merge(info: CheckpointInfo, adapter: Adapter, dtype: str) -> MergePlan:
    """Match the adapter to the base. `dtype` is `base` or a torch name. `UserError` lists what does
    not fit."""
    _check_quantization(info)
    base = {tensor.name: tensor for tensor in info.tensors}
    changes = _changes(adapter)
    matched, faults = _match(changes, base, info, adapter.settings.fan_in_fan_out)
    if faults:
        raise _does_not_fit(info, adapter, faults)
    head, untied = _tied_head(info, adapter, matched, base)
    if info.tied_embeddings:
        matched = {name: change for name, change in matched.items() if not _is_head(name)}
    shards: dict[str, list[OutTensor]] = {file.name: [] for file in info.weight_files}
    for tensor in sorted(base.values(), key=lambda tensor: tensor.offset):
        if head is not None and tensor.name == head[0]:
            continue
        out = OutTensor(tensor.name, _out(tensor, dtype), tensor, matched.get(tensor.name))
        shards[tensor.file.name].append(out)
    if head is not None:
        name, tensor, change = head
        shards[tensor.file.name].append(OutTensor(name, _out(tensor, dtype), tensor, change))
    config = _config(info.config, dtype, untied)
    return MergePlan({name: tuple(rows) for name, rows in shards.items()}, config, untied)


def _tied_head(
    info: CheckpointInfo,
    adapter: Adapter,
    matched: Mapping[str, Change],
    base: Mapping[str, TensorHeader],
) -> tuple[tuple[str, TensorHeader, Change | None] | None, bool]:
    """The output head to write (name, source of its values, change) where tied embeddings change,
    and whether the result is untied."""
    embedding = config_facts.token_embedding(list(base))
    stored = config_facts.output_head(list(base))
    changed = next((name for name in matched if _is_head(name)), None)
    if not info.tied_embeddings or embedding is None:
        return None, False
    if not adapter.settings.ensure_weight_tying:
        if changed is None and embedding not in matched:
            return None, False
        name = changed or stored or _HEAD
        return (name, base[embedding], matched.get(name)), True
    if changed is not None and embedding not in matched:
        raise UserError(
            f"the adapter {adapter.path} keeps the embeddings tied (ensure_weight_tying) but "
            "holds only the output head",
            "train it with the embeddings as target instead of the head",
        )
    if stored is None or embedding not in matched:
        return None, False
    return (stored, base[embedding], matched[embedding]), False


def _changes(adapter: Adapter) -> dict[str, Change]:
    """Changes by parameter name, in the model's own names."""
    changes = {
        name: Change(name, replaced=tensor)
        for name, tensor in adapter.replaced.items()
        if not config_facts.is_buffer(name)
    }
    for module in adapter.modules.values():
        weight = f"{module.name}.weight"
        replaced = adapter.replaced.get(weight)
        changes[weight] = Change(weight, replaced=replaced, lora=module)
        if module.bias is not None:
            bias = f"{module.name}.bias"
            changes[bias] = Change(
                bias,
                replaced=adapter.replaced.get(bias),
                added_bias=module.bias,
                bias_scaling=module.scaling,
            )
    return changes


def _match(
    changes: Mapping[str, Change],
    base: Mapping[str, TensorHeader],
    info: CheckpointInfo,
    fan_in_fan_out: bool,
) -> tuple[dict[str, Change], list[str]]:
    """Changes by the base's tensor names, shapes checked, and what does not fit."""
    matched: dict[str, Change] = {}
    faults: list[str] = []
    flipped = False
    for parameter, change in changes.items():
        name = _tensor_name(parameter, base)
        if name is None and info.tied_embeddings and _is_head(parameter):
            embedding = config_facts.token_embedding(list(base))
            source = base[embedding] if embedding is not None else None
            name = parameter
        else:
            source = base.get(name) if name is not None else None
        if name is None or source is None:
            faults.append(f"{parameter}: the base has no such tensor")
            continue
        fault, settled = _fit(change, source)
        if fault:
            faults.append(f"{parameter}: {fault}")
        matched[name] = settled
        flipped |= settled.transposed and not (settled.lora and settled.lora.embedding)
    return _square(matched, base, fan_in_fan_out or flipped), faults


def _tensor_name(parameter: str, base: Mapping[str, TensorHeader]) -> str | None:
    """The base's name of a parameter: the same, or without or with the model's own prefix (a
    checkpoint of `GPT2Model` has `h.0…` where the causal model has `transformer.h.0…`)."""
    if parameter in base:
        return parameter
    shorter = parameter.partition(".")[2]
    if shorter.count(".") > 1 and shorter in base:
        return shorter
    longer = [name for name in base if name.partition(".")[2] == parameter]
    return longer[0] if len(longer) == 1 else None


def _fit(change: Change, base: TensorHeader) -> tuple[str, Change]:
    """What keeps the change from the base's tensor, and the change with its orientation."""
    if not is_float(base.dtype):
        return f"the base's tensor has type {base.dtype}, no float", change
    whole = change.replaced
    if whole is not None and whole.shape != base.shape:
        return _shapes(whole.shape, base.shape), change
    if change.added_bias is not None and change.added_bias.shape != base.shape:
        return _shapes(change.added_bias.shape, base.shape), change
    lora = change.lora
    if lora is None:
        return "", change
    wanted = (lora.up.shape[0], lora.down.shape[1])
    transposed = lora.embedding or (base.shape == wanted[::-1] and base.shape != wanted)
    settled = Change(change.parameter, whole, lora, transposed=transposed)
    if base.shape != (wanted[::-1] if transposed else wanted):
        return _shapes(wanted, base.shape), settled
    if lora.magnitude is not None and lora.magnitude.elements != wanted[0]:
        return f"DoRA magnitude has {lora.magnitude.elements} values, not {wanted[0]}", settled
    return "", settled


def _square(
    matched: dict[str, Change], base: Mapping[str, TensorHeader], flipped: bool
) -> dict[str, Change]:
    """Square layers show no orientation by their shape: they follow the others (peft keeps only
    one `fan_in_fan_out`, that of the last layer it wrapped)."""
    result = {}
    for name, change in matched.items():
        source = base.get(name)
        square = source is not None and len(set(source.shape)) == 1 and len(source.shape) == 2
        if flipped and square and change.lora is not None and not _is_head(name):
            change = Change(change.parameter, change.replaced, change.lora, transposed=True)
        result[name] = change
    return result


def _does_not_fit(info: CheckpointInfo, adapter: Adapter, faults: list[str]) -> UserError:
    more = len(faults) - _LISTED
    details = faults[:_LISTED] + ([f"and {more} more"] if more > 0 else [])
    return UserError(
        f"the adapter {adapter.path} does not fit {info.name} ({info.architecture}): "
        f"{len(faults)} of its {len(adapter.modules) + len(adapter.replaced)} parts",
        "it is for another architecture or size: give the base it was trained on "
        f"({(adapter.record.base_name if adapter.record else adapter.settings.base_model) or '?'});"
        " with a changed vocabulary, resize and save the base first",
        details=details,
    )


def _check_quantization(info: CheckpointInfo) -> None:
    if info.config.get("quantization_config"):
        raise UserError(
            f"the base {info.name} is quantized; an adapter cannot be merged into it exactly",
            "give the unquantized checkpoint of the same model",
        )


def _shapes(adapter: Iterable[int], base: Iterable[int]) -> str:
    return f"shape {list(adapter)} in the adapter, {list(base)} in the base"


def _is_head(name: str) -> bool:
    return config_facts.output_head([name]) is not None


def _out(tensor: TensorHeader, dtype: str) -> str:
    return DTYPES[dtype] if dtype in DTYPES and is_float(tensor.dtype) else tensor.dtype


def _config(config: Mapping[str, Any], dtype: str, untied: bool) -> dict[str, Any]:
    """The result's config.json: other dtype or untied embeddings where that is so."""
    changed: dict[str, Any] = dict(config)
    if dtype in DTYPES:
        changed.pop("torch_dtype", None)
        changed["dtype"] = dtype
    if untied:
        changed["tie_word_embeddings"] = False
        if isinstance(inner := changed.get("text_config"), dict):
            changed["text_config"] = {**inner, "tie_word_embeddings": False}
    return changed
