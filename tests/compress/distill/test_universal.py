"""Universal logit distillation: the distance of sorted probabilities, and borders in texts."""

from __future__ import annotations

import numpy as np
import torch

from toolchain.compress.distill.universal.align import aligned, borders, message_borders
from toolchain.compress.distill.universal.distance import sorted_distance


def _reference(student: np.ndarray, teacher: np.ndarray, temperature: float) -> np.ndarray:
    """The 1-Wasserstein distance in float64: both padded, sorted, subtracted."""

    def shares(logits: np.ndarray) -> np.ndarray:
        raised = np.exp(logits / temperature - (logits / temperature).max(-1, keepdims=True))
        return raised / raised.sum(-1, keepdims=True)

    width = max(student.shape[-1], teacher.shape[-1])
    both = []
    for own in (shares(student), shares(teacher)):
        padded = np.pad(own, ((0, 0), (0, width - own.shape[-1])))
        both.append(-np.sort(-padded, axis=-1))
    return np.abs(both[0] - both[1]).sum(-1)


def test_the_distance_is_that_of_sorted_padded_probabilities() -> None:
    draw = np.random.default_rng(0)
    for own, other, temperature in ((40, 70, 1.0), (70, 40, 2.0), (50, 50, 5.0)):
        student, teacher = draw.normal(0, 3, (6, own)), draw.normal(0, 3, (6, other))
        found = sorted_distance(torch.tensor(student), torch.tensor(teacher), temperature)
        np.testing.assert_allclose(
            found.numpy(), _reference(student, teacher, temperature), atol=1e-12
        )


def test_it_falls_along_its_gradient_and_is_zero_for_a_permutation() -> None:
    torch.manual_seed(0)
    teacher = torch.randn(8, 30, dtype=torch.float64)
    shuffled = teacher[:, torch.randperm(30)]
    assert float(sorted_distance(shuffled, teacher, 2.0).abs().max()) < 1e-12
    student = torch.randn(8, 20, dtype=torch.float64, requires_grad=True)
    before = sorted_distance(student, teacher, 2.0).sum()
    (slope,) = torch.autograd.grad(before, student)
    after = sorted_distance(student - 0.1 * slope, teacher, 2.0).sum()
    assert float(after.detach()) < float(before.detach())


def test_borders_are_where_tokenizers_agree_on_what_was_read() -> None:
    text = "turn on  the lamp"
    with_space = [(0, 4), (4, 7), (7, 8), (8, 12), (12, 17)]  # the space before a word is its own
    trimmed = [(0, 0), (0, 4), (5, 7), (9, 12), (13, 15), (15, 17)]  # left out; one special token
    first, second = borders(with_space, text), borders(trimmed, text)
    assert first == {0: 0, 4: 1, 7: 2, 12: 4, 17: 5}
    assert second == {0: 1, 4: 2, 7: 3, 12: 4, 15: 5, 17: 6}
    assert sorted(first.keys() & second.keys()) == [0, 4, 7, 12, 17]


def test_messages_are_aligned_whatever_their_templates_write_between() -> None:
    own_text, other_text = "<u>hi there</u>\n<a>on it</a>", "[INST] hi there [/INST] on it"
    own = [(0, 3), (3, 5), (5, 11), (11, 15), (15, 16), (16, 19), (19, 21), (21, 24), (24, 28)]
    other = [(0, 6), (6, 9), (9, 12), (12, 15), (15, 23), (23, 26), (26, 29)]
    messages = ("hi there", "on it")
    mine = message_borders(own, own_text, messages)
    theirs = message_borders(other, other_text, messages)
    assert mine == {(0, 0): 1, (0, 2): 2, (0, 8): 3, (1, 0): 6, (1, 2): 7, (1, 5): 8}
    assert theirs == {(0, 0): 1, (0, 2): 2, (0, 5): 3, (0, 8): 4, (1, 0): 5, (1, 2): 6, (1, 5): 7}
    assert aligned(mine, theirs, [5, 6, 7, 8], len(other)) == [-1, 4, 5, 6]
    assert aligned(mine, theirs, [6, 7, 8], 6) == [4, 5, -1]
