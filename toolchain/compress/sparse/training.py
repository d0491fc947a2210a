"""Zeros that training keeps; imported by the worker process alone.

All weights free: what is zero at the start is zeroed again after every step. An adapter: its
product B·A counts only where the base is not zero, so what is learned is what merging leaves
(SparsePEFT: Muñoz, Yuan and Jain 2024, arXiv:2410.03750). Its files are those of a plain LoRA.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch.nn.functional import linear
from transformers import TrainerCallback

_WEIGHT = ".weight"
_ADAPTER_PREFIX = "base_model.model."


class KeepZeros(TrainerCallback):  # type: ignore[misc]  # transformers is not followed by mypy
    """Zeros of the named parameters stay; `names` are those of the checkpoint's tensors."""

    def __init__(self, names: frozenset[str]) -> None:
        self._names = names
        self._kept: list[tuple[Any, torch.Tensor]] = []

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any, **_: Any) -> None:
        self._kept = [
            (parameter, parameter.detach() == 0)
            for name, parameter in model.named_parameters()
            if name in self._names
        ]

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        for parameter, zeros in self._kept:
            parameter.data.masked_fill_(zeros, 0)


def mask_adapter(network: Any, names: frozenset[str]) -> int:
    """Let the LoRA modules on the named tensors learn only where the base is not zero; how many
    modules that are. DoRA and 4-bit bases are left as they are: merging zeroes them."""
    masked = 0
    for name, module in network.named_modules():
        base = getattr(module, "base_layer", None)
        tensor = f"{name.removeprefix(_ADAPTER_PREFIX)}{_WEIGHT}"
        if base is None or tensor not in names or not _is_plain(module, base):
            continue
        module.forward = functools.partial(_masked_forward, module)
        masked += 1
    return masked


def _is_plain(module: Any, base: Any) -> bool:
    dora = any(getattr(module, "use_dora", {}).values())
    return isinstance(base, torch.nn.Linear) and base.weight.is_floating_point() and not dora


def _masked_forward(module: Any, inputs: torch.Tensor) -> torch.Tensor:
    base, adapter = module.base_layer, module.active_adapters[0]
    down, up = module.lora_A[adapter].weight, module.lora_B[adapter].weight
    change = module.scaling[adapter] * (up @ down) * (base.weight != 0)
    dropped = module.lora_dropout[adapter](inputs.to(change.dtype))
    outputs: torch.Tensor = base(inputs) + linear(dropped, change).to(inputs.dtype)
    return outputs
