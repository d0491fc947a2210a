"""Learned scales: what they round to, which gradient they get, and that a checkpoint holds them."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import load_file

from runtimes.ggml_blocks import dequantize_rows
from runtimes.ggml_codes import SCALED, levels
from toolchain.compress.exact.scales import FILE, LearnedScales, learned_grids

KINDS = sorted(SCALED)


def _network() -> torch.nn.Linear:
    torch.manual_seed(0)
    return torch.nn.Linear(64, 4, bias=False)


def _moved(scales: LearnedScales) -> None:
    for power in scales.powers.values():
        power.data.copy_(torch.linspace(-0.2, 0.3, power.numel()).view_as(power))


@pytest.mark.parametrize("kind", KINDS)
def test_a_checkpoint_gives_the_blocks_that_were_trained(kind: str, tmp_path: Path) -> None:
    network = _network()
    weight = network.weight.data
    scales = LearnedScales(network, {"weight": kind})
    _moved(scales)
    scales.save(tmp_path)
    grid = learned_grids(tmp_path, {"weight": kind})["weight"]
    written = dequantize_rows(grid.blocks(weight), kind, 64)
    trained = scales.values("weight", weight).numpy()
    numpy.testing.assert_allclose(written, trained, rtol=1e-6)
    again = LearnedScales(network, {"weight": kind})
    again.load(tmp_path)
    assert torch.equal(again.powers["weight"], scales.powers["weight"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_gradient_is_that_of_learned_step_sizes(kind: str, tmp_path: Path) -> None:
    """As autograd gives it when only the rounding goes straight through, in and beyond a block's
    range."""
    network = _network()
    weight = network.weight.data
    scales = LearnedScales(network, {"weight": kind})
    for power in scales.powers.values():
        power.data.fill_(-0.5)  # smaller scales: some weights are beyond the range
    pull = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    scales.learn("weight", weight, scales.values("weight", weight), pull)

    scales.save(tmp_path)
    present = load_file(tmp_path / FILE)["scale.weight"].double().unsqueeze(-1)
    power = torch.zeros_like(present, requires_grad=True)
    scale = present * power.exp()
    numbers = torch.from_numpy(levels(kind)).double()
    numbers = numbers + {"Q4_0": -8, "Q5_0": -16, "Q8_0": -128, "IQ4_NL": 0}[kind]
    steps = (weight.view(4, 2, 32).double() / scale).clamp(numbers[0], numbers[-1])
    rounded = numbers[(steps.detach()[..., None] - numbers).abs().argmin(-1)]
    result = scale * (steps + (rounded - steps).detach())
    (result * pull.view(4, 2, 32)).sum().backward()
    assert (steps == numbers[0]).any() or (steps == numbers[-1]).any()
    found = scales.powers["weight"].grad
    assert found is not None and power.grad is not None
    assert torch.allclose(found.double(), power.grad.squeeze(-1), atol=1e-5)


def test_learning_lowers_the_error_of_rounding() -> None:
    """From a start that is off, the scale finds back: the loss is the squared error of values."""
    network = _network()
    weight = network.weight.data
    scales = LearnedScales(network, {"weight": "Q4_0"})
    power = scales.powers["weight"]
    power.data.fill_(0.4)
    optimizer = torch.optim.Adam([power], lr=0.02)
    errors = []
    for _ in range(40):
        values = scales.values("weight", weight)
        error = values - weight
        errors.append(float(error.square().sum()))
        scales.learn("weight", weight, values, 2 * error)
        optimizer.step()
    assert errors[-1] < 0.7 * errors[0]


def test_other_types_learn_none() -> None:
    scales = LearnedScales(_network(), {"weight": "Q4_1"})
    assert "weight" not in scales and not scales.powers
