"""Networks whose layers differ in width: how a checkpoint says so, and how torch builds them.

    network_loader(transformers.AutoModelForCausalLM, checkpoint).from_pretrained(checkpoint)

Such a checkpoint has its architecture's own config.json with one key more, `layer_widths`: for each
of config.json's names of a width a list with one entry a layer. Plain transformers refuses its
weights. The class that takes them is transformers' own, with the linear modules of each layer made
anew; so nothing but the widths can differ. GGUF holds it as architecture `deci`.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.files import read_object

KEY = "layer_widths"
_HEADS, _GROUPS, _FFN = "num_attention_heads", "num_key_value_heads", "intermediate_size"
NAMES = (_HEADS, _GROUPS, _FFN)


def layer_widths(config: Mapping[str, Any]) -> dict[str, list[int]] | None:
    """Name of a width → one number a layer; None where all layers are alike."""
    widths = config.get(KEY)
    return {name: list(widths[name]) for name in NAMES} if isinstance(widths, dict) else None


def config_of_layer(config: Mapping[str, Any], layer: int) -> Mapping[str, Any]:
    """The config with the widths of one layer in the place of the network's."""
    widths = layer_widths(config)
    return {**config, **{name: widths[name][layer] for name in NAMES}} if widths else config


def network_loader(auto_class: Any, checkpoint: Path) -> Any:
    """What has a `from_pretrained` that takes the checkpoint: `auto_class`, wherever that does."""
    path = checkpoint / "config.json"
    config = read_object(path) if path.is_file() else {}
    return network_class(config) if layer_widths(config) else auto_class


def network_class(config: Mapping[str, Any]) -> Any:
    """transformers' class that the config names, with layers of the config's widths."""
    import transformers

    kind = getattr(transformers, (config.get("architectures") or [""])[0])
    if layer_widths(config) is None:
        return kind

    def build(self: Any, own: Any, *args: Any, **keywords: Any) -> None:
        kind.__init__(self, own, *args, **keywords)
        for number, layer in enumerate(self.model.layers):
            _resize(layer, {name: own.layer_widths[name][number] for name in NAMES})

    return type(kind.__name__, (kind,), {"__init__": build, "__module__": kind.__module__})


def _resize(layer: Any, widths: Mapping[str, int]) -> None:
    attention, ffn = layer.self_attn, layer.mlp
    heads, groups = (attention.head_dim * widths[name] for name in (_HEADS, _GROUPS))
    for owner, name, inputs, outputs in (
        (attention, "q_proj", None, heads),
        (attention, "k_proj", None, groups),
        (attention, "v_proj", None, groups),
        (attention, "o_proj", heads, None),
        (ffn, "gate_proj", None, widths[_FFN]),
        (ffn, "up_proj", None, widths[_FFN]),
        (ffn, "down_proj", widths[_FFN], None),
    ):
        setattr(owner, name, _like(getattr(owner, name), inputs, outputs))


def _like(linear: Any, inputs: int | None, outputs: int | None) -> Any:
    import torch

    return torch.nn.Linear(
        inputs or linear.in_features,
        outputs or linear.out_features,
        bias=linear.bias is not None,
        dtype=linear.weight.dtype,
        device=linear.weight.device,
    )
