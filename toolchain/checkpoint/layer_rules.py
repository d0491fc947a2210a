"""Every layer that the config promises is there, whole, and of the config's sizes."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from typing import Any

from toolchain.checkpoint import config_facts
from toolchain.checkpoint.info import CheckpointInfo, Fault, TensorHeader
from toolchain.layer_widths import config_of_layer

_LAYER = re.compile(
    r"^(?P<stem>(?:.*?\.)?(?:layers|h|blocks|block|layer))\.(?P<number>\d+)\.(?P<rest>.+)$"
)
_MEND = "fetch config.json and all weights of one revision"
_LISTED = 5
# Families whose layers all have the same tensors, under the names that Llama's have.
_LLAMA_NAMES = frozenset((
    "llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "granite", "olmo",
    "olmo2", "stablelm", "smollm3",
))  # fmt: skip
_UNIFORM = _LLAMA_NAMES | {"phi", "phi3", "gpt2", "gpt_neox", "starcoder2", "cohere", "bert"}
# Of these the transformers config derives what it does not say from the number of heads.
_DERIVED_SIZES = frozenset(("llama", "olmo"))

# The first OLMo's norms have no weights.
_WITHOUT_NORMS = frozenset(("olmo",))
_NORM = re.compile(r"^(input|post|pre)_(\w+_)?layernorm\.(weight|bias)$")

Layers = Mapping[int, Mapping[str, TensorHeader]]


def layers_are_complete(info: CheckpointInfo) -> Iterator[Fault]:
    """Layers 0 to n-1 are there; in uniform families each has the tensors that the others have."""
    promised = config_facts.layer_count(info.text_config)
    if not info.tensors or promised is None or promised < 1:
        return
    stem, layers = text_layers(info)
    absent = promised - sum(number < promised for number in layers)
    if absent:
        # Not a list of all: a broken config may promise any number.
        missing = islice((n for n in range(promised) if n not in layers), min(absent, _LISTED))
        yield Fault(
            f"config.json says {promised} layers, "
            f"the weights lack {absent} of them: {stem}.N for N = {', '.join(map(str, missing))}"
            + (" …" if absent > _LISTED else ""),
            _MEND,
        )
    if info.model_type in _UNIFORM:
        further = sorted(number for number in layers if number >= promised)
        if further:
            yield Fault(
                f"config.json says {promised} layers, the weights have {max(layers) + 1}", _MEND
            )
        required = _llama_shapes(info.text_config) if info.model_type in _LLAMA_NAMES else ()
        yield from _lost_tensors(stem, layers, required)


def shapes_match_config(info: CheckpointInfo) -> Iterator[Fault]:
    """In families with Llama's names, every projection has the shape that the config implies."""
    if info.model_type not in _LLAMA_NAMES or not info.tensors:
        return
    _, layers = text_layers(info)
    wrong = []
    for number, tensors in sorted(layers.items()):
        expected = _llama_shapes(config_of_layer(info.text_config, number))
        for rest, shape in expected.items():
            tensor = tensors.get(rest)
            if tensor is not None and not _fits(tensor.shape, shape):
                wanted = "×".join("?" if width is None else str(width) for width in shape)
                wrong.append(f"{tensor.name} is {'×'.join(map(str, tensor.shape))}, not {wanted}")
    if wrong:
        more = f" (and {len(wrong) - 1} more tensors)" if len(wrong) > 1 else ""
        yield Fault(f"config.json contradicts the weights: {wrong[0]}{more}", _MEND)


def norms_match_config(info: CheckpointInfo) -> Iterator[Fault]:
    """In these families the last norm is there, and every norm over the hidden state is as wide."""
    hidden = _width(info.text_config, "hidden_size")
    stem, layers = text_layers(info)
    if info.model_type not in _LLAMA_NAMES or not layers or hidden is None:
        return
    last = f"{stem.removesuffix('layers')}norm.weight"
    norms = [one for one in info.tensors if one.name == last]
    if not norms and info.model_type not in _WITHOUT_NORMS:
        yield Fault(f"tensors are missing: {last}", _MEND)
    norms += [one for own in layers.values() for rest, one in own.items() if _NORM.search(rest)]
    wrong = [one for one in norms if one.shape != (hidden,) and one.elements]
    if wrong:
        shape = "×".join(map(str, wrong[0].shape)) or "a single value"
        yield Fault(
            f"config.json contradicts the weights: {wrong[0].name} is {shape}, not {hidden}", _MEND
        )


def text_layers(info: CheckpointInfo) -> tuple[str, Layers]:
    """The language model's layers: their common name and number → rest of the name → tensor.

    Of several towers the one whose name begins as the token embedding's does, or the largest.
    """
    towers: dict[str, dict[int, dict[str, TensorHeader]]] = defaultdict(lambda: defaultdict(dict))
    for tensor in info.tensors:
        if match := _LAYER.match(tensor.name):
            towers[match["stem"]][int(match["number"])][match["rest"]] = tensor
    if not towers:
        return "layers", {}
    embedding = config_facts.token_embedding([tensor.name for tensor in info.tensors]) or ""
    start = embedding.rpartition("embed")[0]
    near = [stem for stem in towers if start and stem.startswith(start)] or list(towers)
    stem = max(near, key=lambda name: len(towers[name]))
    return stem, towers[stem]


def _lost_tensors(stem: str, layers: Layers, required: Iterable[str]) -> Iterator[Fault]:
    """Tensors that a layer lacks although the family needs them or another layer has them."""
    every = {rest for tensors in layers.values() for rest in tensors}
    every = {rest for rest in every if not config_facts.is_buffer(f"{stem}.0.{rest}")}
    lost = [
        f"{stem}.{number}.{rest}"
        for number, tensors in sorted(layers.items())
        for rest in sorted((every | set(required)) - tensors.keys())
    ]
    if lost:
        yield Fault(f"tensors are missing: {_some(lost)}", _MEND)


def _llama_shapes(config: Mapping[str, Any]) -> dict[str, tuple[int | None, int | None]]:
    """Shapes that the config implies; None for a width that it leaves to its class's default."""
    hidden, heads = _width(config, "hidden_size"), _width(config, "num_attention_heads")
    ffn = _width(config, "intermediate_size")
    derived = config.get("model_type") in _DERIVED_SIZES
    kv_heads = _width(config, "num_key_value_heads") or (heads if derived else None)
    head = _width(config, "head_dim") or (hidden // heads if derived and hidden and heads else None)
    queries = heads * head if heads and head else None
    keys = kv_heads * head if kv_heads and head else None
    return {
        "self_attn.q_proj.weight": (queries, hidden),
        "self_attn.k_proj.weight": (keys, hidden),
        "self_attn.v_proj.weight": (keys, hidden),
        "self_attn.o_proj.weight": (hidden, queries),
        "mlp.gate_proj.weight": (ffn, hidden),
        "mlp.up_proj.weight": (ffn, hidden),
        "mlp.down_proj.weight": (hidden, ffn),
    }


def _width(config: Mapping[str, Any], key: str) -> int | None:
    value = config.get(key)
    return value if type(value) is int and value > 0 else None


def _fits(shape: tuple[int, ...], expected: tuple[int | None, ...]) -> bool:
    return len(shape) == len(expected) and all(
        want is None or have == want for have, want in zip(shape, expected, strict=True)
    )


def _some(names: list[str]) -> str:
    more = len(names) - _LISTED
    return ", ".join(names[:_LISTED]) + (f" and {more} more" if more > 0 else "")


LAYER_RULES = (layers_are_complete, shapes_match_config, norms_match_config)
