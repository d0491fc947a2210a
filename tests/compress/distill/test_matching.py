"""Matching against references in plain words."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from toolchain.compress.distill.matching import Matching, layer_map, valid_places
from toolchain.compress.distill.settings import Distill


def config(layers: int, width: int) -> Any:
    found = SimpleNamespace(num_hidden_layers=layers, hidden_size=width)
    found.get_text_config = lambda: found
    return found


@pytest.mark.parametrize(
    ("student", "teacher", "layers"),
    [(3, 6, (1, 3, 5)), (4, 4, (0, 1, 2, 3)), (2, 7, (2, 6)), (4, 2, (0, 0, 1, 1))],
)
def test_layers_are_spread_evenly(student: int, teacher: int, layers: tuple[int, ...]) -> None:
    assert layer_map(student, teacher, ()) == layers


def test_errors_are_relative_and_padding_counts_for_nothing() -> None:
    torch.manual_seed(0)
    settings = Distill(hidden_weight=1.0, attention_weight=1.0)
    matching = Matching(config(1, 4), config(2, 6), settings)
    valid = valid_places({"attention_mask": torch.tensor([[1, 1, 0], [1, 1, 1]])})
    student = SimpleNamespace(
        hidden_states=torch.randn(2, 2, 3, 4), attentions=torch.randn(1, 2, 2, 3, 3).softmax(-1)
    )
    teacher = SimpleNamespace(
        hidden_states=torch.randn(3, 2, 3, 6), attentions=torch.randn(2, 2, 4, 3, 3).softmax(-1)
    )
    hidden, attention = matching(student, teacher, valid)
    weight = matching.projections[0].weight.detach().double()
    lifted = student.hidden_states[1].double() @ weight.T
    wanted = teacher.hidden_states[2].double()  # the last layer is on the last
    error = norm = kl = 0.0
    for row, place in valid.nonzero().tolist():
        error += float((lifted[row, place] - wanted[row, place]).pow(2).sum())
        norm += float(wanted[row, place].pow(2).sum())
        p, q = (
            x[-1, row].double().mean(0)[place] for x in (teacher.attentions, student.attentions)
        )
        kl += float((p * (p / q).log()).sum())
    assert float(hidden) == pytest.approx(error / norm, rel=1e-5)
    assert float(attention) == pytest.approx(kl / 5, rel=1e-5)


def test_equal_widths_need_no_projection() -> None:
    assert not list(Matching(config(1, 4), config(2, 4), Distill(hidden_weight=1)).parameters())
