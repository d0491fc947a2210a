"""Sums of squared inputs per column of every weight matrix, gathered while a model runs.

What llama-imatrix gathers from llama.cpp's matrix multiplications, forward hooks gather from
torch's modules, under the names that the tensors have in the GGUF.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

_LAYER = re.compile(r"\.(?:layers|h|blocks)\.(\d+)\.")
_IN_LAYERS = "blk."
_EXPERT_PARTS = ("ffn_gate_exps", "ffn_up_exps", "ffn_down_exps")


@dataclass
class InputSums:
    """`sums[name]` (matrices, columns) and `counts[name]` (matrices,), both float64; a matrix is an
    expert or the whole tensor. `not_covered` names linear modules without a place in the GGUF."""

    sums: dict[str, torch.Tensor] = field(default_factory=dict)
    counts: dict[str, torch.Tensor] = field(default_factory=dict)
    not_covered: list[str] = field(default_factory=list)

    def add(self, name: str, rows: torch.Tensor, matrix: int = 0, matrices: int = 1) -> None:
        """Add the squares of `rows` (tokens, columns) to one matrix of the tensor."""
        import torch

        # One chunk adds well in float32 (torch sums in cascades); the chunks are added in float64.
        squares = rows.float().square().sum(dim=0).double().cpu()
        if name not in self.sums:
            self.sums[name] = torch.zeros(matrices, squares.numel(), dtype=torch.float64)
            self.counts[name] = torch.zeros(matrices, dtype=torch.float64)
        self.sums[name][matrix] += squares
        self.counts[name][matrix] += rows.shape[0]


def watch(model: Any, gguf_name: Callable[[str], str | None]) -> InputSums:
    """Hook every linear module and expert block of the model; sums grow as it runs.

    `gguf_name` turns a weight's name into the GGUF's, or nothing. The token embedding and the
    output head are left out, as llama-imatrix leaves them out by default.
    """
    from torch.nn import Linear
    from transformers.pytorch_utils import Conv1D

    found = InputSums()
    for path, module in model.named_modules():
        if isinstance(module, Linear | Conv1D):
            name = gguf_name(f"{path}.weight")
            if name is None:
                found.not_covered.append(path)
            elif name.startswith(_IN_LAYERS):
                module.register_forward_pre_hook(_linear_hook(found, name))
        elif hasattr(module, "gate_up_proj") and hasattr(module, "down_proj"):
            layer = _LAYER.search(f".{path}.")
            if layer and _plain_experts(module):
                module.register_forward_pre_hook(_experts_hook(found, layer[1]), with_kwargs=True)
            elif _is_parameter(module.gate_up_proj):
                found.not_covered.append(path)
    return found


def _linear_hook(found: InputSums, name: str) -> Callable[..., None]:
    def hook(_: Any, inputs: tuple[Any, ...]) -> None:
        found.add(name, inputs[0].reshape(-1, inputs[0].shape[-1]))

    return hook


def _is_parameter(value: Any) -> bool:
    from torch.nn import Parameter

    return isinstance(value, Parameter)


def _plain_experts(module: Any) -> bool:
    """Whether this is transformers' usual block: gate and up concatenated, rows first, no bias."""
    both, down = module.gate_up_proj, module.down_proj
    if not _is_parameter(both) or hasattr(module, "gate_up_proj_bias") or both.dim() != 3:
        return False
    experts, double, hidden = both.shape
    plain = tuple(down.shape) == (experts, hidden, double // 2)
    return plain and hasattr(module, "act_fn") and not getattr(module, "is_transposed", False)


def _experts_hook(found: InputSums, layer: str) -> Callable[..., None]:
    gate_name, up_name, down_name = (f"blk.{layer}.{part}.weight" for part in _EXPERT_PARTS)

    def hook(module: Any, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        import torch

        hidden = inputs[0] if inputs else keywords["hidden_states"]
        chosen = inputs[1] if len(inputs) > 1 else keywords["top_k_index"]
        experts = module.gate_up_proj.shape[0]
        for expert in range(experts):
            tokens = torch.where(chosen == expert)[0]
            rows = hidden[tokens]
            gate, up = torch.nn.functional.linear(rows, module.gate_up_proj[expert]).chunk(2, -1)
            found.add(gate_name, rows, expert, experts)
            found.add(up_name, rows, expert, experts)
            found.add(down_name, module.act_fn(gate) * up, expert, experts)

    return hook
