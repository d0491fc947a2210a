"""Single matrices rounded into blocks: against the algorithm as published, and against nearest."""

from __future__ import annotations

import copy

import numpy
import pytest
import torch

from runtimes.ggml_blocks import dequantize_rows, quantize_rows, row_bytes
from runtimes.ggml_codes import grid
from toolchain.compress.gptq.rounding import gptq
from toolchain.compress.gptq.target import TwoInputs
from toolchain.compress.prune.calibration import Batch


def moments_of(width: int) -> torch.Tensor:
    """Of inputs whose columns belong together: a few causes, and a little noise."""
    draw = torch.Generator().manual_seed(0)
    mixing = torch.randn(width // 4, width, generator=draw) * torch.logspace(-0.3, 0.3, width)
    inputs = torch.randn(4 * width, width // 4, generator=draw) @ mixing
    inputs += 0.5 * torch.randn(4 * width, width, generator=draw)
    return inputs.T @ inputs / len(inputs)


def weights(width: int, outputs: int = 24) -> torch.Tensor:
    return 0.05 * torch.randn(outputs, width, generator=torch.Generator().manual_seed(1))


def loss(weight: torch.Tensor, blocks: numpy.ndarray, kind: str, moments: torch.Tensor) -> float:
    """Mean squared error of the outputs."""
    error = torch.from_numpy(dequantize_rows(blocks, kind, weight.shape[1])) - weight
    return float(((error @ moments) * error).sum())


@pytest.mark.parametrize(
    "kind", ["Q4_0", "Q4_1", "Q5_0", "Q8_0", "Q4_K", "Q6_K", "IQ4_NL", "IQ4_XS"]
)
def test_outputs_are_nearer_than_those_of_the_nearest_weights(kind: str) -> None:
    weight, moments = weights(256), moments_of(256)
    made = gptq(weight, moments, kind)
    plain = quantize_rows(weight.numpy(), kind, moments.diagonal().numpy())
    assert made.shape == (len(weight), row_bytes(kind, 256))
    assert loss(weight, made, kind, moments) < 0.6 * loss(weight, plain, kind, moments)


def published(weight: torch.Tensor, moments: torch.Tensor, kind: str) -> torch.Tensor:
    """Algorithm 1 of GPTQ column by column on the whole matrix, without lazy updates; the scales
    of a group are found when its first column comes."""
    weight, size = weight.clone(), 32
    hessian = 2 * moments.double()
    hessian.diagonal().add_(0.01 * hessian.diagonal().mean())
    root = torch.linalg.cholesky(torch.linalg.inv(hessian), upper=True).float()
    result = torch.empty_like(weight)
    for i in range(weight.shape[1]):
        if i % size == 0:
            own = slice(i, i + size)
            cost = 1 / root.diagonal()[own] ** 2
            blocks = quantize_rows(weight[:, own].numpy(), kind, cost.numpy())
            base, step = (torch.from_numpy(values) for values in grid(blocks, kind))
        at = i % size
        code = ((weight[:, i] - base[:, at]) / step[:, at]).round().clamp(0, 15)
        result[:, i] = base[:, at] + step[:, at] * code
        error = (weight[:, i] - result[:, i]) / root[i, i]
        weight[:, i:] -= error[:, None] @ root[i : i + 1, i:]
    return result


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1"])
def test_as_published(kind: str) -> None:
    weight, moments = weights(96), moments_of(96)
    found = torch.from_numpy(dequantize_rows(gptq(weight, moments, kind), kind, 96))
    wanted = published(weight, moments, kind)
    same = (found - wanted).abs() < 1e-5
    assert float(same.float().mean()) > 0.98  # rounding of floats tips a code now and then


def test_the_target_answers_as_before() -> None:
    """Least squares on the tokens that count."""
    draw = torch.Generator().manual_seed(2)
    before = torch.randn(2, 40, 8, generator=draw)
    now = before + 0.3 * torch.randn(2, 40, 8, generator=draw)
    valid = torch.ones(2, 40, dtype=torch.bool)
    valid[1, 25:] = False
    layer = torch.nn.Sequential(torch.nn.Linear(8, 3, bias=False)).requires_grad_(False)
    seen = TwoInputs("0")
    seen.watch(layer, copy.deepcopy(layer), [Batch(valid, valid)], [now], [before], [{}])
    weight = layer[0].weight
    wanted = torch.linalg.lstsq(now[valid].double(), (before[valid] @ weight.T).double()).solution.T
    found = seen.target(weight, damping=1e-9)
    torch.testing.assert_close(found, wanted.float(), rtol=1e-4, atol=1e-5)


def test_inputs_that_never_come_and_blocks_of_zeros() -> None:
    weight, moments = weights(64), moments_of(64)
    moments[:, :32] = moments[:32] = 0
    weight[0] = 0
    values = dequantize_rows(gptq(weight, moments, "Q4_0"), "Q4_0", 64)
    plain = dequantize_rows(quantize_rows(weight.numpy(), "Q4_0"), "Q4_0", 64)
    assert numpy.isfinite(values).all() and not values[0].any()
    far = numpy.abs(values - weight.numpy())[:, :32].max()
    assert far < 2 * numpy.abs(plain - weight.numpy())[:, :32].max()


def test_types_without_known_codes_get_the_nearest() -> None:
    weight, moments = weights(256), moments_of(256)
    made = gptq(weight, moments, "Q3_K")
    nearest = quantize_rows(weight.numpy(), "Q3_K", moments.diagonal().numpy())
    assert numpy.array_equal(made, nearest)
