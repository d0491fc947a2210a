"""Scores that need the whole network in memory: gradients, and the loss without each layer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

from common.errors import UserError
from toolchain.checkpoint.info import CheckpointInfo
from toolchain.compress.prune.calibration import Batch
from toolchain.compress.prune.layout import Layout, prefix_of
from toolchain.compress.prune.scores import Scores
from toolchain.compress.prune.shape import Shape


@contextmanager
def whole_network(info: CheckpointInfo) -> Iterator[Any]:
    """The network with all its weights; gradients can be taken."""
    from toolchain.compress.prune.answers import open_network

    with open_network(info.path) as network, torch.inference_mode(False), torch.enable_grad():
        yield network


def batch_loss(network: Any, batch: Batch) -> torch.Tensor:
    """Mean loss of the next token over the batch's tokens. A classifier's is that of the label that
    it gives the text (or token) now. Raises `UserError` when the network has no head."""
    made = network(input_ids=batch.ids, attention_mask=batch.valid.long())
    logits = getattr(made, "logits", None)
    if logits is None:
        raise UserError(
            "this encoder has no head, so no loss",
            "take score activation or magnitude, and layer_score block-influence or magnitude",
        )
    if logits.dim() == 2 or not network.can_generate():
        flat = (logits if logits.dim() == 2 else logits[batch.valid]).float()
        return torch.nn.functional.cross_entropy(flat, flat.argmax(-1))
    labels = batch.ids.masked_fill(~batch.valid, -100)[:, 1:]
    return torch.nn.functional.cross_entropy(
        logits[:, :-1].flatten(0, 1).float(), labels.flatten(), ignore_index=-100
    )


def taylor(info: CheckpointInfo, layout: Layout, shape: Shape, batches: Sequence[Batch]) -> Scores:
    """First-order change of the loss when a channel's activation becomes zero: the sum over tokens
    of activation times gradient, its size taken batch by batch."""
    ffn = [torch.zeros(shape.ffn) for _ in range(shape.layers)]
    heads = [torch.zeros(shape.width("heads")) for _ in range(shape.layers)]
    hidden = torch.zeros(shape.hidden)
    with whole_network(info) as network:
        network.requires_grad_(False)
        seen: list[tuple[torch.Tensor, torch.Tensor]] = []

        def keep(total: torch.Tensor) -> Any:
            def hook(_module: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
                value = args[0]
                if not value.requires_grad:
                    value = value.detach().requires_grad_(True)
                else:
                    value.retain_grad()
                seen.append((total, value))
                return (value, *args[1:])

            return hook

        layers = network.get_submodule(f"{prefix_of(layout, info)}{layout.layer}")
        for number, layer in enumerate(layers):
            layer.register_forward_pre_hook(keep(hidden))
            layer.get_submodule(layout.attention_out).register_forward_pre_hook(keep(heads[number]))
            layer.get_submodule(layout.ffn_out).register_forward_pre_hook(keep(ffn[number]))
        for batch in batches:
            seen.clear()
            batch_loss(network, batch).backward()
            for total, value in seen:
                assert value.grad is not None
                total += (value.detach() * value.grad)[batch.valid].sum(0).abs()
    groups = tuple(one.view(shape.groups, -1).sum(1) for one in heads)
    return Scores(tuple(ffn), groups, torch.zeros(shape.layers), hidden)


def losses_without(info: CheckpointInfo, layout: Layout, batches: Sequence[Batch]) -> torch.Tensor:
    """By how much the loss rises when one layer is left out, for each layer."""
    with whole_network(info) as network, torch.no_grad():
        layers = network.get_submodule(f"{prefix_of(layout, info)}{layout.layer}")

        def loss() -> float:
            tokens = sum(batch.tokens for batch in batches)
            return sum(float(batch_loss(network, b)) * b.tokens for b in batches) / tokens

        full, rises = loss(), []
        for number in range(len(layers)):
            real = layers[number]
            layers[number] = _Skipped(real)
            rises.append(loss() - full)
            layers[number] = real
    return torch.tensor(rises)


class _Skipped(torch.nn.Module):  # type: ignore[misc]
    """A layer that hands its input on; other facts of the layer are still told."""

    def __init__(self, layer: Any) -> None:
        super().__init__()
        self._layer = [layer]

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self._layer[0], name)

    def forward(self, hidden: torch.Tensor, *_args: Any, **_keywords: Any) -> torch.Tensor:
        return hidden
