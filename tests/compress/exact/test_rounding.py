"""Float weights and the file's: which are where, and that gradients go straight through."""

from __future__ import annotations

import numpy
import torch

from runtimes.ggml_blocks import dequantize_rows
from toolchain.compress.exact.rounding import ExactWeights, rounded, settle_blocks
from toolchain.compress.exact.settings import ExactPlan


class _Tied(torch.nn.Module):
    """An embedding that is the head too, and a linear layer between."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Embedding(8, 256)
        self.inner = torch.nn.Linear(256, 256)
        self.head = torch.nn.Linear(256, 8, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = self.head(self.inner(self.embed(ids)))
        return result


_IDS = torch.arange(8)


def _network() -> _Tied:
    torch.manual_seed(0)
    return _Tied()


def _types() -> dict[str, str]:
    return {"embed.weight": "Q6_K", "inner.weight": "Q4_0"}


def test_the_gradient_is_that_of_the_rounded_network() -> None:
    network = _network()
    before = {name: p.detach().clone() for name, p in network.named_parameters()}
    plain = _network()
    with torch.no_grad():
        plain.embed.weight.copy_(rounded(plain.embed.weight, "Q6_K"))
        plain.inner.weight.copy_(rounded(plain.inner.weight, "Q4_0"))
    plain(_IDS).square().mean().backward()
    with ExactWeights(network, _types()).in_place(0):
        output = network(_IDS)
        output.square().mean().backward()
    assert torch.equal(output, plain(_IDS))
    for (name, mine), (_, theirs) in zip(
        network.named_parameters(), plain.named_parameters(), strict=True
    ):
        assert mine.grad is not None and theirs.grad is not None
        assert torch.equal(mine.grad, theirs.grad), name
        assert torch.equal(mine.detach(), before[name]), "the float weights are back"
    assert network.head.weight is network.embed.weight


def test_slow_types_are_found_anew_now_and_then() -> None:
    network = _network()
    exact = ExactWeights(network, _types(), every=3)

    def seen(step: int | None) -> tuple[torch.Tensor, torch.Tensor]:
        with exact.in_place(step):
            return network.embed.weight.detach().clone(), network.inner.weight.detach().clone()

    first = seen(0)
    with torch.no_grad():
        network.embed.weight += 0.5
        network.inner.weight += 0.5
    again = seen(1)
    assert torch.equal(first[0], again[0]) and not torch.equal(first[1], again[1])
    assert not torch.equal(first[0], seen(3)[0])
    with torch.no_grad():
        network.embed.weight += 0.5
    assert torch.equal(seen(None)[0], rounded(network.embed.weight, "Q6_K"))
    stale = seen(4)
    exact.forget()
    assert torch.equal(stale[0], seen(5)[0]), "as a run that goes on from there"


def test_settled_weights_are_their_blocks() -> None:
    network = _network()
    exact = settle_blocks(network, ExactPlan(quantization="Q4_0", types=_types()))
    for name, kind in _types().items():
        values = dequantize_rows(exact.blocks[name], kind, 256)
        assert numpy.array_equal(values, network.get_parameter(name).detach().numpy()), name
